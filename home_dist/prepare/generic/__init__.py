"""Any log of impressions, described in TOML -> a prepared data set. No Python is needed for it."""

from home_dist.prepare.generic.prepare_log import Options, prepare_log

__all__ = ["Options", "prepare_log"]
