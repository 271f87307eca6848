"""Tasks and their groups as the models need them: by number."""

from collections.abc import Sequence
from dataclasses import dataclass

from home_dist.schema import TaskSpec


@dataclass(frozen=True)
class TaskGroups:
    """`group_of[k]` is the group of task k; groups are numbered from 0 without gaps."""

    group_of: tuple[int, ...]
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.group_of:
            raise ValueError("a model needs at least one task")
        if sorted(set(self.group_of)) != list(range(max(self.group_of) + 1)):
            raise ValueError(f"groups must be numbered from 0 without gaps, got {self.group_of}")

    @staticmethod
    def of(tasks: Sequence[TaskSpec]) -> "TaskGroups":
        names = list(dict.fromkeys(t.group for t in tasks))
        return TaskGroups(tuple(names.index(t.group) for t in tasks), tuple(t.name for t in tasks))

    @property
    def tasks(self) -> int:
        return len(self.group_of)

    @property
    def groups(self) -> int:
        return max(self.group_of) + 1
