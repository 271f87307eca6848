"""The [checkpoint] section: when checkpoints are written, which stay, what a new run begins with."""

from typing import Literal

from pydantic import Field

from home_dist.config.section import Section


class WarmStartSection(Section):
    source: str = Field(alias="from")
    """A checkpoint, the run.dir of a run for its newest one, or RUN/best."""
    tables: tuple[str, ...] | None = None
    """Tables to take over, by their names here; by default all that are there, small ones included."""
    rename: dict[str, str] = Field(default_factory=dict)
    """Tables that have another name there, as here = "there"."""
    dense: bool = True
    """Takes over dense parameters and statistics of the same name and shape."""


class CheckpointSection(Section):
    every_steps: int | None = Field(default=None, ge=1)
    """Steps between checkpoints; one is written at the end in any case."""
    keep_last: int = Field(default=3, ge=1)
    """The newest ones stay."""
    keep_every: int | None = Field(default=None, ge=1)
    """Those whose step is a multiple of this stay as well."""
    best: Literal["auc", "gauc", "log_loss"] | None = None
    """Evaluates the validation split at each checkpoint, and keeps the one with the best mean over tasks as well."""
    asynchronous: bool = True
    """Training goes on while a checkpoint is written, from a copy in memory."""
    warm_start: WarmStartSection | None = None
    """What a new run begins with; a run that goes on does not look at it."""
    damaged: Literal["refuse", "skip"] = "refuse"
    """What a run does that finds its newest checkpoint damaged: end with an error, or set it aside and go on from the newest
    intact one."""
