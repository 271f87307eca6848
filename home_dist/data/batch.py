"""The samples of one step and rank: ids, histories, statistics and labels, as tensors that TorchRec's pipelines can move."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable


@dataclass(frozen=True)
class HostSizes:
    """Sizes that the host knows of a batch on a device. Without them it would wait for the device wherever the size of a tensor
    depends on them."""

    lengths: dict[str, NDArray[np.integer]]
    """By key of `events`, `managed` and `small_lists`: (B,) ids of each sample."""
    requests: NDArray[np.int64]
    """As `Batch.requests`."""
    firsts: NDArray[np.int64]
    """As `Batch.firsts`."""


@dataclass
class Batch(Pipelineable):
    """B samples of a rank: real samples first, then padding, which occurs in an epoch's last step, after bad rows and
    with `data.request`.

    Padding has mask 0, label weights 0 and no jagged ids, so that it touches no row of a sharded table.
    """

    bags: KeyedJaggedTensor
    """Ids for the EmbeddingBagCollection."""
    weighted_bags: KeyedJaggedTensor
    """Ids with weights for the EmbeddingBagCollection that takes weighted sums."""
    events: KeyedJaggedTensor
    """Ids for the EmbeddingCollection: histories, and their targets as histories of length 1."""
    managed: KeyedJaggedTensor
    """Hashes of ids for managed tables, which assign rows to ids themselves: histories and targets as in `events`."""
    small_lists: KeyedJaggedTensor
    """Lists of ids of replicated tables."""
    list_weights: KeyedJaggedTensor
    """float32 weights of the lists in `events`, `managed` and `small_lists` that are pooled by weights."""
    small: torch.Tensor
    """(B, S) int64: ids of replicated tables and buckets of statistics."""
    dense: torch.Tensor
    """(B, P) float32, standardised."""
    vectors: torch.Tensor
    """(B, sum of width + 1) float32: each pre-trained feature's vector, and 1 where it is missing."""
    labels: torch.Tensor
    """(B, K) float32: 0 or 1, a number in the label's unit, or a class."""
    weights: torch.Tensor
    """(B, K) float32; 0: the label is unknown."""
    durations: torch.Tensor
    """(B, columns) float32, above 0; 1 in padding: columns that objectives read (`InputLayout.durations`)."""
    mask: torch.Tensor
    """(B,) float32; 1: a real sample, 0: padding."""
    groups: torch.Tensor
    """(B,) int64: the group (user) of each sample for GAUC; -1 for padding."""
    requests: torch.Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    """(B,) int64: the key of each sample's request (request_keys.py); -1 for padding. (0,) without `data.request`. In training,
    the rows of a request follow each other."""
    firsts: torch.Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    """(R,) int64, with `data.once_per_request`: the first sample of each request, ascending, which alone has the ids that the
    request's samples share. All padding is one request. Else (0,): every sample has its own ids."""
    teachers: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    """(B, T) float32, in training with `train.distillation`: predictions of the teachers of T tasks (`InputLayout.teachers`), a
    row's label where it has none. Else without columns."""
    distinct: KeyedJaggedTensor | None = None
    """With `embedding.dedup`: the distinct ids of each key of `events` (distinct.py). Else None."""
    places: torch.Tensor | None = None
    """(N,) int64: the place of each id of `events` among the distinct ids of its key. None without `distinct`."""
    epoch: int = 0
    step: int = 0
    """The epoch, and the step within it that training this batch completes. The batch carries the reader's position, so that
    batches that are only read ahead do not count as trained."""
    on_host: HostSizes | None = None
    """Of a batch that was moved from the host to a device."""

    @property
    def size(self) -> int:
        return self.mask.shape[0]

    @property
    def looked_up(self) -> KeyedJaggedTensor:
        """Ids that the EmbeddingCollection looks up for `events`."""
        return self.events if self.distinct is None else self.distinct

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        on_host = self.host_sizes() if self.on_host is None and torch.device(device).type != "cpu" else self.on_host
        moved = self._each(lambda x: x.to(device=device, non_blocking=non_blocking))
        moved.on_host = on_host
        return moved

    def host_sizes(self) -> HostSizes | None:
        """The sizes of a batch on the host; None on a device. Each list of ids also learns its total by key, which it takes
        along to a device."""
        if self.mask.device.type != "cpu":
            return None
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, KeyedJaggedTensor) and value.keys():
                value.length_per_key()
        lengths = {
            key: of_key
            for ids in (self.events, self.managed, self.small_lists)
            if ids.keys()
            for key, of_key in zip(ids.keys(), ids.lengths().view(len(ids.keys()), -1).numpy(), strict=True)
        }
        return HostSizes(lengths, self.requests.numpy(), self.firsts.numpy())

    def pin_memory(self) -> Batch:
        return self._each(lambda x: x.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, (torch.Tensor, KeyedJaggedTensor)):
                value.record_stream(stream)

    def _each(self, move: Any) -> Batch:
        moved = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, (torch.Tensor, KeyedJaggedTensor)):
                moved[each.name] = move(value)
        return replace(self, **moved)
