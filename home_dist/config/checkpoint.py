"""The [checkpoint] section: when checkpoints are written, which are kept, and how a new run starts from another one."""

from typing import Literal

from pydantic import Field

from home_dist.config.section import Section
from home_dist.config.stopping import Measure


class WarmStartSection(Section):
    source: str = Field(alias="from")
    """A checkpoint, a run.dir (its newest checkpoint), or RUN/best."""
    tables: tuple[str, ...] | None = None
    """Tables to take over, by their names in this run; by default all that the source has, small ones included."""
    rename: dict[str, str] = Field(default_factory=dict)
    """Tables that have another name in the source: name in this run = "name in the source"."""
    dense: bool = True
    """Takes over dense parameters and statistics of the same name and shape."""
    optimizer: bool = True
    """Takes over the optimizers' state too, of rows and tensors that are taken over. The learning rate's schedule starts
    afresh."""


class CheckpointSection(Section):
    every_steps: int | None = Field(default=None, ge=1)
    """Steps between checkpoints; the end of the run always writes one."""
    keep_last: int = Field(default=3, ge=1)
    """Number of newest checkpoints that are kept."""
    keep_every: int | None = Field(default=None, ge=1)
    """Also keeps checkpoints whose step is a multiple of this."""
    best: Measure | Literal["stop"] | None = None
    """Evaluates the validation split at each checkpoint, and also keeps the one with the best mean over tasks. "stop", which
    train.stop sets, is by its metric and tasks."""
    asynchronous: bool = True
    """Writes a checkpoint from a copy in memory while training goes on."""
    warm_start: WarmStartSection | None = None
    """Checkpoint that a new run takes tables and parameters from; a resumed run ignores it."""
    damaged: Literal["refuse", "skip"] = "refuse"
    """If the newest checkpoint is damaged: end with an error, or set it aside and resume from the newest intact one."""
