"""Rolling origin: a prepared data set cut anew at each of several days, with all that is fitted refitted on the days before."""

from home_dist.prepare.origins.dated_data import DatedData, RollingOrigin, read_dated
from home_dist.prepare.origins.origin_folder import write_origin

__all__ = ["DatedData", "RollingOrigin", "read_dated", "write_origin"]
