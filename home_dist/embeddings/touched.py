"""Rows of sharded tables that training may have changed, noted as batches look them up: what a delta for servers holds.

A mark per row of this rank's shards, set by a look-up in training. Ids of features, of histories, of sampled negatives and of
rows that managed ids have got all go through these look-ups, on the rank that holds the row. FBGEMM's optimizers change no
other rows (embedding.weight_decay must be 0). Replicated and data-parallel tables have no marks: AdamW's decay and moments move
all rows of the former, and each rank sees only its own ids of the latter. They are small, and published whole.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from torchrec.distributed.batched_embedding_kernel import BaseBatchedEmbedding, BaseBatchedEmbeddingBag
from torchrec.distributed.embedding_types import EmbeddingComputeKernel

Part = tuple[str, int]
"""A table, and the first of its rows that this rank holds."""


class TouchedRows:
    """One rank's marks. A mark takes a byte per row."""

    def __init__(self, model: nn.Module):
        """model: sharded."""
        self.marks: dict[Part, torch.Tensor] = {}
        """(rows,) bool of each part; ranks that share a table by columns mark the same rows."""
        self._hooks: list[RemovableHandle] = []
        for owner, lookup in _lookups(model):
            parts = list(self._parts(lookup))
            if any(mark is not None for mark, _, _ in parts):
                self._hooks.append(lookup.register_forward_pre_hook(Marking(owner, parts)))

    def _parts(self, lookup: Any) -> Iterator[tuple[torch.Tensor | None, int, int]]:
        """(mark, first and end of its keys) of each table of a look-up."""
        first = 0
        for table in lookup.config.embedding_tables:
            end, mark = first + len(table.feature_names), None
            if table.compute_kernel is not EmbeddingComputeKernel.DENSE and table.local_metadata is not None:
                part = table.name, int(table.local_metadata.shard_offsets[0])
                device = table.local_metadata.placement.device()
                mark = self.marks.setdefault(part, torch.zeros(table.local_rows, dtype=torch.bool, device=device))
            yield mark, first, end
            first = end

    def take(self, part: Part) -> torch.Tensor:
        """(n,) rows of a part, counted from its first, that have been touched since the last call, ascending."""
        mark = self.marks[part]
        rows = mark.nonzero().squeeze(1)
        mark[rows] = False
        return rows

    def give_back(self, part: Part, rows: torch.Tensor) -> None:
        """Marks rows again, which could not be published."""
        self.marks[part][rows] = True

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()


def _lookups(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """(sharded collection, look-up of some of its tables). TorchRec keeps look-ups in plain lists, so that `train` and `eval`
    reach the collection alone."""
    for owner in model.modules():
        for group in getattr(owner, "_lookups", ()):
            for lookup in group.modules():
                if isinstance(lookup, (BaseBatchedEmbedding, BaseBatchedEmbeddingBag)):
                    yield owner, lookup


class Marking:
    def __init__(self, owner: nn.Module, parts: list[tuple[torch.Tensor | None, int, int]]):
        self._owner, self._parts = owner, parts

    @torch.no_grad()
    def __call__(self, lookup: nn.Module, arguments: tuple[Any, ...]) -> None:
        if not self._owner.training or not arguments:
            return
        features = arguments[0]
        values = features.values()
        if not len(values):
            return
        bounds = features.offset_per_key() if len(self._parts) > 1 else [0, len(values)]
        for mark, first, end in self._parts if len(self._parts) > 1 else [(self._parts[0][0], 0, 1)]:
            if mark is None:
                continue
            rows = values[bounds[first] : bounds[end]]
            if mark.device.type == "cpu":
                mark.numpy()[rows.numpy()] = True  # torch's threads take 20 times as long on a busy machine
            else:
                mark[rows.long()] = True
