"""Census-Income (KDD), the data of Ma et al. 2018 -> a prepared data set."""

from home_dist.prepare.census.census_preparation import CHOICES, LEVELS, SETTINGS, TASKS, CensusOptions, prepare_census

__all__ = ["CHOICES", "LEVELS", "SETTINGS", "TASKS", "CensusOptions", "prepare_census"]
