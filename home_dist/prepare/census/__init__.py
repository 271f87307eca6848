"""Census-Income (KDD), the data of Ma et al. 2018 -> a prepared data set."""

from home_dist.prepare.census.prepare_census import SETTINGS, TASKS, Options, prepare_census

__all__ = ["SETTINGS", "TASKS", "Options", "prepare_census"]
