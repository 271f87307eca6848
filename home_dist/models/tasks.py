"""Tasks and task groups by number, as models use them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from home_dist.models.anatomy import Gate, Owner

if TYPE_CHECKING:  # models run where pyarrow, which schemas need, is missing
    from home_dist.schema import TaskSpec


@dataclass(frozen=True)
class TaskGroups:
    """`group_of[k]` is the group of task k; groups are numbered from 0 without gaps."""

    group_of: tuple[int, ...]
    names: tuple[str, ...] = ()
    group_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.group_of:
            raise ValueError("a model needs at least one task")
        if sorted(set(self.group_of)) != list(range(max(self.group_of) + 1)):
            raise ValueError(f"groups must be numbered from 0 without gaps, got {self.group_of}")

    @staticmethod
    def of(tasks: "Sequence[TaskSpec]") -> "TaskGroups":
        names = list(dict.fromkeys(t.group for t in tasks))
        return TaskGroups(tuple(names.index(t.group) for t in tasks), tuple(t.name for t in tasks), tuple(names))

    @property
    def tasks(self) -> int:
        return len(self.group_of)

    @property
    def groups(self) -> int:
        return max(self.group_of) + 1

    def name(self, task: int) -> str:
        return self.names[task] if self.names else f"task {task}"

    def group_name(self, group: int) -> str:
        return self.group_names[group] if self.group_names else f"group {group}"

    def owners(self, experts: int = 1) -> list[tuple[Owner, int]]:
        """(task, number of its experts) for each task."""
        return [(Owner("task", self.name(k)), experts) for k in range(self.tasks)]

    def group_owners(self) -> list[Owner]:
        return [Owner("group", self.group_name(c)) for c in range(self.groups)]

    def gates(self) -> list[Gate]:
        """One gate per task."""
        return [Gate(self.name(k), k) for k in range(self.tasks)]
