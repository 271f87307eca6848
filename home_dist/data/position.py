"""Where training stands in the data, as checkpoints keep it."""

from dataclasses import dataclass
from typing import Any

from home_dist.data.order import Fragment


@dataclass(frozen=True)
class ReaderPosition:
    """Where training stands in the data: `steps` steps of `epoch` are done.

    `lanes` is what the epoch's remaining fragments were dealt to when it was resumed with other lanes or another global batch
    than it began with; None for an epoch that runs as it was dealt at first.
    """

    epoch: int
    steps: int
    lanes: int
    global_batch: int
    fingerprint: str
    dealt: tuple[tuple[Fragment, ...], ...] | None = None
    window_rows: int | None = None
    whole_rows: int | None = None
    """What the epoch's windows were made with, see `Sizes`; None in positions from before row groups were cut."""

    def to_json(self) -> dict[str, Any]:
        dealt = None if self.dealt is None else [[list(f) for f in lane] for lane in self.dealt]
        return {**self.__dict__, "dealt": dealt}

    @staticmethod
    def from_json(tree: dict[str, Any]) -> "ReaderPosition":
        dealt = tree["dealt"]
        lanes = None if dealt is None else tuple(tuple(Fragment(*f) for f in lane) for lane in dealt)
        return ReaderPosition(**{**tree, "dealt": lanes})
