"""The [train] section: batches, optimizer of dense parameters, losses."""

from typing import Literal

from pydantic import Field

from home_dist.config.section import Section


class TrainSection(Section):
    seed: int = Field(default=0, ge=0)
    batch_size: int = Field(default=1024, ge=1)
    """Samples per rank and step."""
    epochs: int = Field(default=1, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    """Ends the run after so many steps, even within an epoch."""
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled decay of weight matrices (not of biases and normalisation)."""
    warmup_steps: int = Field(default=0, ge=0)
    decay: Literal["none", "linear", "cosine"] = "linear"
    """How learning rates fall to zero over the run."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Bound of the norm of the dense gradient."""
    accumulate: int = Field(default=1, ge=1)
    """Steps whose dense gradients are averaged to one update of the dense parameters: an update follows each step whose number
    is a multiple, and the last one of a run or round. Rows of sharded tables are updated in each step. Checkpoints lie between
    updates: checkpoint.every_steps must be a multiple."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """What becomes of a step whose loss or gradient is not finite. It changes nothing in either case; the run ends with the
    largest values of its batch, or tells them, counts the step and goes on, unless too many follow on each other."""
    recompute_experts: bool = False
    """Keeps no activations of the multi-task model: the backward computes them anew, which takes less memory and more time."""
    linear_path: bool = True
    """Adds a linear model of the dense values to each task's logit."""
    task_weights: dict[str, float] = Field(default_factory=dict)
    """Factors of the tasks' losses; 1 where not given."""
