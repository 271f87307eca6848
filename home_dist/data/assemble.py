"""Decoded rows + the indices of a batch -> Batch."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from home_dist.data.batch import Batch
from home_dist.data.decode import Columns, Rows
from home_dist.schema import InputLayout

_Jagged = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32] | None]
"""Values (n,), lengths (size,), and weights (n,) of a weighted list."""
Picks = Sequence[tuple[Rows, NDArray[np.int64]]]
"""Rows of several windows and which of them a batch takes, in order."""


class Assembler:
    """Builds batches of `size` samples; what the picks leave open is filled up with samples of mask 0."""

    def __init__(self, layout: InputLayout, tasks: int, size: int):
        self.columns = Columns.of(layout)
        self.dense_width, self.tasks, self.size = layout.dense_width, tasks, size
        self.bag_keys = [i.key for i in layout.at("bag")]
        self.weighted_keys = [i.key for i in layout.at("weighted_bag")]
        self.weights_keys = [i.key for i in layout.weighted]
        self.event_keys = [i.key for i in layout.at("event")]
        self.managed_keys = [i.key for i in layout.at("managed")]
        self.pretrained = layout.pretrained
        self.list_keys = [i.key for i in layout.at("small_list")]

    def __call__(self, picks: Picks, epoch: int, step: int) -> Batch:
        real = sum(len(index) for _, index in picks)
        fill = self.size - real
        jagged = self._jagged(picks, fill)
        mask = torch.ones(self.size)
        mask[real:] = 0
        return Batch(
            bags=_keyed(self.bag_keys, jagged),
            weighted_bags=_keyed(self.weighted_keys, jagged, weighted=True),
            events=_keyed(self.event_keys, jagged),
            managed=_keyed(self.managed_keys, jagged),
            small_lists=_keyed(self.list_keys, jagged),
            list_weights=_weights(self.weights_keys, jagged),
            small=self._gather(picks, "small", len(self.columns.small), np.int64),
            dense=self._gather(picks, "dense", self.dense_width, np.float32),
            vectors=self._vectors(picks),
            labels=self._gather(picks, "labels", self.tasks, np.float32),
            weights=self._gather(picks, "weights", self.tasks, np.float32),
            mask=mask,
            groups=self._groups(picks),
            epoch=epoch,
            step=step,
        )

    def _gather(self, picks: Picks, name: str, width: int, dtype: type) -> torch.Tensor:
        """(size, width), zero in filled samples."""
        out: NDArray = np.zeros((self.size, width), dtype)
        at = 0
        for rows, index in picks:
            np.take(getattr(rows, name), index, axis=0, out=out[at : at + len(index)], mode="clip")
            at += len(index)
        return torch.from_numpy(out)

    def _vectors(self, picks: Picks) -> torch.Tensor:
        """Frozen tables are read here, batch by batch: a window's vectors would take more memory than all else of it."""
        out = np.zeros((self.size, sum(i.width + 1 for i in self.pretrained)), np.float32)
        column = 0
        for number, item in enumerate(self.pretrained):
            at = 0
            for rows, index in picks:
                part = out[at : at + len(index), column : column + item.width + 1]
                values, missing = rows.vectors[number].values[index], rows.vectors[number].missing[index]
                if item.frozen is None:
                    part[:, :-1] = values
                else:
                    part[~missing, :-1] = item.frozen.vectors[values[~missing]]
                part[:, -1] = missing
                at += len(index)
            column += item.width + 1
        return torch.from_numpy(out)

    def _groups(self, picks: Picks) -> torch.Tensor:
        out = np.full(self.size, -1, np.int64)
        at = 0
        for rows, index in picks:
            out[at : at + len(index)] = rows.groups[index]
            at += len(index)
        return torch.from_numpy(out)

    def _jagged(self, picks: Picks, fill: int) -> dict[str, _Jagged]:
        """Per key; filled samples have no values."""
        jagged: dict[str, _Jagged] = {}
        lengths = np.ones(self.size, np.int32)
        lengths[self.size - fill :] = 0
        for column, item in enumerate(self.columns.single):
            values = [rows.single[index, column] for rows, index in picks]
            jagged[item.key] = (np.concatenate(values) if values else np.zeros(0, np.int64), lengths, None)
        for group, items in enumerate(self.columns.lists):
            taken = [_take_lists(rows.lists[group].offsets, index) for rows, index in picks]
            parts = [rows.lists[group].values[flat] for (rows, _), (flat, _) in zip(picks, taken, strict=True)]
            both = np.concatenate(parts) if parts else np.zeros((0, len(items)), np.int64)
            counts = np.concatenate([n for _, n in taken] + [np.zeros(fill, np.int32)]).astype(np.int32)
            weights = None
            if items[0].weights is not None:
                found = [(rows.lists[group].weights, flat) for (rows, _), (flat, _) in zip(picks, taken, strict=True)]
                weights = np.concatenate([np.zeros(0, np.float32), *(w[flat] for w, flat in found if w is not None)])
            for column, item in enumerate(items):
                jagged[item.key] = (both[:, column], counts, weights)
        return jagged


def _take_lists(offsets: NDArray[np.int64], index: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Positions of the values of the lists `index`, one list after another, and the lists' lengths."""
    starts = offsets[index]
    lengths = offsets[index + 1] - starts
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - lengths), lengths), lengths.astype(np.int32)


def _keyed(keys: list[str], jagged: dict[str, _Jagged], weighted: bool = False) -> KeyedJaggedTensor:
    """weighted: with weights, 1 for ids that have none."""
    if not keys:
        return KeyedJaggedTensor.empty(values_dtype=torch.int64, lengths_dtype=torch.int32)
    values = np.concatenate([jagged[k][0] for k in keys])
    lengths = np.concatenate([jagged[k][1] for k in keys])
    weights = None
    if weighted:
        found = [jagged[k] for k in keys]
        weights = torch.from_numpy(np.concatenate([np.ones(len(v), np.float32) if w is None else w for v, _, w in found]))
    return KeyedJaggedTensor(keys, torch.from_numpy(values), lengths=torch.from_numpy(lengths), weights=weights)


def _weights(keys: list[str], jagged: dict[str, _Jagged]) -> KeyedJaggedTensor:
    if not keys:
        return KeyedJaggedTensor.empty(values_dtype=torch.float32, lengths_dtype=torch.int32)
    values = np.concatenate([w for w in (jagged[k][2] for k in keys) if w is not None])
    lengths = np.concatenate([jagged[k][1] for k in keys])
    return KeyedJaggedTensor(keys, torch.from_numpy(values), lengths=torch.from_numpy(lengths))
