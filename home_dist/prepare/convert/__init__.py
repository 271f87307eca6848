"""Feature configurations of other libraries -> a draft of a schema for `home-dist prepare fit`."""

from home_dist.prepare.convert.conversion import Conversion, convert

__all__ = ["Conversion", "convert"]
