"""Any log of impressions, described in TOML -> a prepared data set. No Python is needed for it."""

from home_dist.prepare.generic.log_options import LogOptions
from home_dist.prepare.generic.log_preparation import prepare_log

__all__ = ["LogOptions", "prepare_log"]
