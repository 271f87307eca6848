"""Counts, while a split is scored, how many of its ids have a row of their own in the model's tables."""

from collections.abc import Callable

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from home_dist.data import Batch
from home_dist.insight.cold_ids import KnownIds
from home_dist.metrics import OverRanks
from home_dist.schema import IdInput, InputLayout, Schema
from home_dist.schema.values import HashValues, VocabularyValues

_LISTS: dict[str, Callable[[Batch], KeyedJaggedTensor]] = {
    "bag": lambda batch: batch.bags,
    "weighted_bag": lambda batch: batch.weighted_bags,
    "event": lambda batch: batch.events,
}


class KnownCounter:
    """Every rank has one, and counts its own samples.

    Features of sharded tables are counted: small ones hold few values, such as tabs. In hashed tables any id has a row,
    which it may share; these are left out.
    """

    def __init__(self, layout: InputLayout, schema: Schema):
        values = {t.name: t.values for t in schema.table}
        hashed = {name for name, v in values.items() if isinstance(v, HashValues)}
        self._inputs = [i for i in layout.features if i.place in _LISTS and i.table.name not in hashed]
        # Rows up to this one belong to no id alone: row 0, and those over which a vocabulary spreads unknown ids.
        self._shared = {name: v.unknown_rows if isinstance(v, VocabularyValues) else 0 for name, v in values.items()}
        self._counts = torch.zeros(len(self._inputs), 2, dtype=torch.int64)

    def add(self, batch: Batch) -> None:
        """batch: on the host. Padding has no ids of these tables."""
        for n, one in enumerate(self._inputs):
            rows = _rows(batch, one)
            self._counts[n, 0] += len(rows)
            self._counts[n, 1] += (rows > self._shared[one.table.name]).sum()

    def counted(self, over: OverRanks) -> list[KnownIds]:
        """Of all ranks. Collective."""
        sums = over.sums(*self._counts.flatten().tolist()) if self._inputs else []
        pairs = zip(self._inputs, sums[0::2], sums[1::2], strict=True)
        return [KnownIds(i.key, i.table.name, int(ids), int(known)) for i, ids, known in pairs]


def _rows(batch: Batch, one: IdInput) -> torch.Tensor:
    lists = _LISTS[one.place](batch)
    at = lists.keys().index(one.key)
    ends = lists.offset_per_key()
    return lists.values()[ends[at] : ends[at + 1]]
