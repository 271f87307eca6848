"""A group of ranks that exchange something among themselves, where that is not all ranks of a run."""

from dataclasses import dataclass
from typing import Any

import torch.distributed as dist


@dataclass(frozen=True)
class Peers:
    """This rank and those that it exchanges with. A copy of a module keeps its groups."""

    count: int = 1
    group: dist.ProcessGroup | None = None
    """None for all ranks."""

    def __deepcopy__(self, _: Any) -> "Peers":
        return self


ALONE = Peers()
