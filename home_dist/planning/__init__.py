"""`home-dist plan`: memory and step time of a run on devices that need not be present."""
