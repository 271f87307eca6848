"""The [train] section: batches, optimizer of dense parameters, losses."""

from typing import Annotated, Literal

from pydantic import Field

from home_dist.config.distillation import DistillationSection
from home_dist.config.section import Section
from home_dist.config.stopping import Ema, StopSection
from home_dist.config.weighting import Weighting, WeightingSection

TaskWeight = Annotated[float, Field(ge=0)]


class TrainSection(Section):
    seed: int = Field(default=0, ge=0)
    """Of initial values, the order of rows, dropout and all other random numbers."""
    batch_size: int = Field(default=1024, ge=1)
    """Samples per rank and step."""
    epochs: int = Field(default=1, ge=1)
    """Passes over the training split."""
    max_steps: int | None = Field(default=None, ge=1)
    """The run ends after so many steps, even within an epoch."""
    lr: float = Field(default=1e-3, gt=0)
    """Learning rate of the dense parameters (AdamW)."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay of weight matrices, but not of biases and normalisation."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps in which learning rates rise from zero."""
    decay: Literal["none", "linear", "cosine"] = "linear"
    """How learning rates decay to zero over the run."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Upper bound of the norm of the dense gradient."""
    accumulate: int = Field(default=1, ge=1)
    """Number of steps whose dense gradients are averaged for one update of the dense parameters. An update follows each step
    whose number is a multiple of it, and the last step of a run or round. Rows of sharded tables are updated in every step.
    Checkpoints lie between updates: checkpoint.every_steps must be a multiple."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """For a step whose loss or gradient is not finite; it never changes parameters. "stop" ends the run and reports the largest
    values of the batch; "skip" reports them, counts the step and goes on, unless too many such steps follow each other."""
    recompute_experts: bool = False
    """Keeps no activations of the multi-task model: the backward recomputes them, which saves memory and takes time."""
    linear_path: bool = True
    """Adds a linear model of the dense values to each task's logit."""
    task_weights: dict[str, TaskWeight] = Field(default_factory=dict)
    """Factors of the tasks' losses; 1 where not given."""
    ema: Ema = None
    """Keeps an exponential moving average of the dense parameters with this decay, in checkpoints too."""
    stop: StopSection | None = None
    """Ends the run when a metric of the validation split no longer improves."""
    weighting: Weighting = WeightingSection()
    """How losses are weighed beyond task_weights: "fixed", "uncertainty", "dwa", "gradnorm", or a section with settings."""
    distillation: DistillationSection | None = None
    """Tasks also learn a teacher's predictions, such as the mean of several runs'."""
