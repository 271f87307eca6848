"""The [log] section: how often a run reports progress."""

from pydantic import Field

from home_dist.config.section import Section


class LogSection(Section):
    every_steps: int = Field(default=20, ge=1)
    """Steps between lines of progress, and between points in TensorBoard."""
    tensorboard: bool = True
    """Whether run.dir/tensorboard is written."""
