"""The [train.distillation] section: tasks also learn a teacher's predictions, which are columns of the training files."""

from collections.abc import Iterable

from pydantic import Field

from home_dist.config.section import Section


class DistillationSection(Section):
    prefix: str = Field(default="teacher_", min_length=1)
    """Of the columns: that of a task is the prefix and the task's name, as `home-dist score --prefix` writes it. It holds
    probabilities, of a regression numbers in the label's unit; null: the teacher says nothing of this row. Rows whose label
    weighs 0 teach nothing."""
    weight: float = Field(default=0.5, gt=0, le=1)
    """w: the tasks' losses in training are of (1 - w) label + w prediction (Hinton et al. 2015, at temperature 1). Losses
    within requests, auxiliary losses and evaluations are of labels alone."""
    tasks: tuple[str, ...] = ()
    """Tasks that have a teacher; by default all that are trained."""

    def columns(self, tasks: Iterable[str]) -> dict[str, str]:
        """By task that has a teacher: its column. tasks: those that are trained."""
        return {task: f"{self.prefix}{task}" for task in tasks if not self.tasks or task in self.tasks}
