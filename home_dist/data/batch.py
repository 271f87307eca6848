"""What one step of a rank reads: ids, histories, statistics, labels, as tensors that TorchRec's pipelines can move."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable


@dataclass
class Batch(Pipelineable):
    """B samples of a rank, of which the first ones are real and the last, in an epoch's last step, may be filled up.

    Filled samples have mask 0, label weights 0 and no ids at all, so that they touch no embedding row.
    """

    bags: KeyedJaggedTensor
    """Ids for the EmbeddingBagCollection."""
    weighted_bags: KeyedJaggedTensor
    """Ids for the EmbeddingBagCollection that weights what it sums, with their weights."""
    events: KeyedJaggedTensor
    """Ids for the EmbeddingCollection: histories, and their targets as histories of length 1."""
    managed: KeyedJaggedTensor
    """Hashes of ids for tables that give out their rows themselves: histories and targets as in `events`."""
    small_lists: KeyedJaggedTensor
    """Lists of ids of replicated tables."""
    list_weights: KeyedJaggedTensor
    """float32 weights of those lists of `events`, `managed` and `small_lists` that are pooled by weights."""
    small: torch.Tensor
    """(B, S) int64: ids of replicated tables and buckets of statistics."""
    dense: torch.Tensor
    """(B, P) float32, standardised."""
    vectors: torch.Tensor
    """(B, sum of width + 1) float32: each pre-trained feature's vector, and 1 where it is missing."""
    labels: torch.Tensor
    """(B, K) float32, 0 or 1."""
    weights: torch.Tensor
    """(B, K) float32; 0: no label here."""
    mask: torch.Tensor
    """(B,) float32; 1: a real sample."""
    groups: torch.Tensor
    """(B,) int64: by which GAUC groups; -1 for filled samples."""
    epoch: int = 0
    step: int = 0
    """The epoch and the step within it that training this batch completes: the reader's position rides on the batch, so
    that batches which were read ahead do not count as trained."""

    @property
    def size(self) -> int:
        return self.mask.shape[0]

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        return self._each(lambda x: x.to(device=device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        return self._each(lambda x: x.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (torch.Tensor, KeyedJaggedTensor)):
                value.record_stream(stream)

    def _each(self, move: Any) -> Batch:
        moved = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (torch.Tensor, KeyedJaggedTensor)):
                moved[field.name] = move(value)
        return replace(self, **moved)
