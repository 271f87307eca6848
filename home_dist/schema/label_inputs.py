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
    """By task. Raises ConfigError for one that lacks a duration which its objective reads, or cannot learn of a teacher."""
    distillation = config.train.distillation
    teachers = {} if distillation is None else distillation.columns(t.name for t in tasks)
    unknown = [] if distillation is None else [name for name in distillation.tasks if name not in teachers]
    if unknown:
        raise ConfigError(
            f"train.distillation.tasks: {unknown[0]!r} is no task of this run; there are: {', '.join(t.name for t in tasks)}"
        )
    for task in tasks:
        if task.name in teachers:
            _refuse_teacher(task, config)
    return tuple(_of_task(task, config, teachers.get(task.name)) for task in tasks)


def _refuse_teacher(task: TaskSpec, config: RunConfig) -> None:
    """Raises ConfigError for a task that cannot learn a teacher's predictions."""
    objective, negatives = config.objective_of(task.name, task.kind), config.data.negatives
    if not objective.can_be_taught:
        focal = " with focal_gamma" if objective.kind == "binary" else ""
        raise ConfigError(
            f"train.distillation: task {task.name!r} is of kind {objective.kind}{focal}, which takes no teacher's predictions; "
            "binary without focal_gamma and regression do. Name those tasks in train.distillation.tasks"
        )
    if negatives is not None and negatives.correct == "logit" and negatives.keep < 1 and task.name in negatives.tasks:
        raise ConfigError(
            f"train.distillation: a teacher's predictions are of all rows, and data.negatives teaches task {task.name!r} of "
            'some, to correct its logit later. Set data.negatives.correct = "weight", or name other tasks in '
            "train.distillation.tasks"
        )


def _of_task(task: TaskSpec, config: RunConfig, teacher: str | None) -> LabelInput:
    objective = config.objective_of(task.name, task.kind)
    if objective.reads_duration and task.duration is None:
        raise ConfigError(
            f"task {task.name!r}: kind {objective.kind} reads the item's duration, but the schema names no `duration` column "
            "for it: name one under [[label]] and prepare the data, or choose another kind"
        )
    return LabelInput(objective.labels, task.duration if objective.reads_duration else None, teacher)
