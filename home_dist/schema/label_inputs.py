"""What training reads of each task: its label, its item's duration, its teacher's predictions."""

from collections.abc import Sequence
from dataclasses import dataclass

from home_dist.config import RunConfig
from home_dist.config.objective import Labels
from home_dist.errors import ConfigError
from home_dist.schema.spec import TaskSpec


@dataclass(frozen=True)
class LabelInput:
    """A task's label. values: what it may be; duration: column that its objective reads; teacher: column of a teacher's
    predictions, which the training split has."""

    values: Labels
    duration: str | None = None
    teacher: str | None = None


def label_inputs(tasks: Sequence[TaskSpec], config: RunConfig) -> tuple[LabelInput, ...]:
    """By task. Raises ConfigError for one that lacks a duration which its objective reads."""
    distillation = config.train.distillation
    teachers = {} if distillation is None else distillation.columns(t.name for t in tasks)
    return tuple(_of_task(task, config, teachers.get(task.name)) for task in tasks)


def _of_task(task: TaskSpec, config: RunConfig, teacher: str | None) -> LabelInput:
    objective = config.objective_of(task.name, task.kind)
    if objective.reads_duration and task.duration is None:
        raise ConfigError(
            f"task {task.name!r}: kind {objective.kind} reads the item's duration, but the schema names no `duration` column "
            "for it: name one under [[label]] and prepare the data, or choose another kind"
        )
    return LabelInput(objective.labels, task.duration if objective.reads_duration else None, teacher)
