"""Names of what a tensor's dimensions run over, see home_dist/axes.py."""

Name = tuple[str, int]
"""An entity, such as "task like", and a number within it."""

Names = tuple[Name, ...]
Axes = tuple[Names | None, ...]
"""Of a tensor's dimensions; None for hidden units, which have none."""
