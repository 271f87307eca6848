"""Types for names along a tensor's dimensions, see home_dist/axes.py."""

Name = tuple[str, int]
"""An entity, such as "task like", and a number within it."""

Names = tuple[Name, ...]
Axes = tuple[Names | None, ...]
"""Names of each of a tensor's dimensions; None for hidden units, which have no names."""
