"""The position of training in the data, as checkpoints store it."""

from dataclasses import dataclass
from typing import Any

from home_dist.data.order import Fragment


@dataclass(frozen=True)
class ReaderPosition:
    """The position of training in the data: `steps` steps of `epoch` are done.

    dealt: fragments by lane, for an epoch that was resumed; with other lanes or another global batch than before, the
    remaining fragments were dealt anew. None for an epoch that runs as it was dealt at first.
    """

    epoch: int
    steps: int
    lanes: int
    global_batch: int
    fingerprint: str
    dealt: tuple[tuple[Fragment, ...], ...] | None = None
    window_rows: int | None = None
    whole_rows: int | None = None
    """Sizes of the epoch's windows, see `reader.WindowSizes`; None in positions of versions that did not cut row groups."""
    bin_rows: int | None = None
    """With `data.request`: rows of a bin, which fragments count instead of rows."""

    def to_json(self) -> dict[str, Any]:
        dealt = None if self.dealt is None else [[list(f) for f in lane] for lane in self.dealt]
        tree = {**self.__dict__, "dealt": dealt}
        if self.bin_rows is None:
            del tree["bin_rows"]  # as in positions of versions that did not know requests
        return tree

    @staticmethod
    def from_json(tree: dict[str, Any]) -> "ReaderPosition":
        dealt = tree["dealt"]
        lanes = None if dealt is None else tuple(tuple(Fragment(*f) for f in lane) for lane in dealt)
        return ReaderPosition(**{**tree, "dealt": lanes})
