"""Vectors of ids that are looked up one by one: of events, of their targets, of features that TorchRec cannot pool."""

from collections.abc import Mapping

import torch
from torchrec.sparse.jagged_tensor import JaggedTensor

from home_dist.embeddings.pooling import pooled
from home_dist.embeddings.side_by_side import Rows, side_by_side
from home_dist.schema import IdInput
from home_dist.schema.layout import Table


class EventVectors:
    """Of one batch."""

    def __init__(self, found: Mapping[str, JaggedTensor], ids: Mapping[str, JaggedTensor], places: torch.Tensor | None):
        """By key. found: what the collections returned; ids: `Batch.events`; places: `Batch.places`."""
        self._found, self._ids = found, ids
        self._places: dict[str, torch.Tensor] = {}
        if places is not None:
            of_keys = places.split([len(of_key.values()) for of_key in ids.values()])
            self._places = dict(zip(ids, of_keys, strict=True))

    def rows(self, key: str) -> Rows:
        """The vectors that were found, and which of them each id has."""
        return self._found[key].values(), self._places.get(key)

    def pooled(self, item: IdInput, weights: JaggedTensor | None = None) -> torch.Tensor:
        """(B, dim)"""
        found, places = self._found[item.key], self._places.get(item.key)
        if places is not None:
            found = JaggedTensor(values=side_by_side([(found.values(), places)]), lengths=self._ids[item.key].lengths())
        return pooled(found, item, weights)


def shared_set(vectors: torch.Tensor, table: Table) -> torch.Tensor:
    """The vectors (N, dim) that all tasks share, of rows that hold several."""
    return vectors if table.sets == 1 else vectors[:, : table.shared_dim]
