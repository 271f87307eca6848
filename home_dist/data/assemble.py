"""Decoded rows + the indices of a batch -> Batch."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from home_dist.data.batch import Batch
from home_dist.data.buffers import Buffers
from home_dist.data.decoded_rows import Columns, Lists, Rows
from home_dist.data.distinct import distinct
from home_dist.data.runs import begins_of
from home_dist.schema import InputLayout

_Jagged = tuple[list[NDArray], NDArray[np.int32], list[NDArray[np.float32]] | None]
"""Pieces of values, lengths (size,), and for a weighted list pieces of weights."""
RowRanges = Sequence[tuple[Rows, int, int]]
"""Permuted rows, with the range start, stop that a batch takes of them."""


class Assembler:
    """Builds batches of `size` samples. If the ranges hold fewer rows, padding samples of mask 0 follow."""

    def __init__(
        self, layout: InputLayout, tasks: int, size: int, buffers: Buffers, requests: bool = False, dedup: bool = False
    ):
        """buffers: makes the arrays of ids. requests: whether rows have the keys of their requests. dedup: whether batches tell
        the distinct ids of histories."""
        self.requests, self.buffers, self.dedup = requests, buffers, dedup
        self.once = requests and any(i.once for i in layout.inputs)
        self.columns = Columns.of(layout)
        self.dense_width, self.tasks, self.size = layout.dense_width, tasks, size
        self.durations, self.teachers = len(layout.durations), len(layout.teachers)
        self.bag_keys = [i.key for i in layout.at("bag")]
        self.weighted_keys = [i.key for i in layout.at("weighted_bag")]
        self.weights_keys = [i.key for i in layout.weighted]
        self.event_keys = [i.key for i in layout.at("event")]
        self.managed_keys = [i.key for i in layout.at("managed")]
        self.pretrained = layout.pretrained
        self.list_keys = [i.key for i in layout.at("small_list")]
        self.no_ids, self.no_weights = (
            KeyedJaggedTensor.empty(values_dtype=kind, lengths_dtype=torch.int32) for kind in (torch.int64, torch.float32)
        )

    def __call__(self, ranges: RowRanges, epoch: int, step: int) -> Batch:
        real = sum(stop - start for _, start, stop in ranges)
        firsts = self._firsts(ranges) if self.once else None
        jagged = self._jagged(ranges, self.size - real, firsts)
        mask = torch.ones(self.size)
        mask[real:] = 0
        events = self._keyed(self.event_keys, jagged)
        once, places = distinct(events, self.buffers) if self.dedup and self.event_keys else (None, None)
        return Batch(
            bags=self._keyed(self.bag_keys, jagged),
            weighted_bags=self._keyed(self.weighted_keys, jagged, weighted=True),
            events=events,
            distinct=once,
            places=places,
            managed=self._keyed(self.managed_keys, jagged),
            small_lists=self._keyed(self.list_keys, jagged),
            list_weights=self._list_weights(self.weights_keys, jagged),
            small=self._gather(ranges, "small", len(self.columns.small), np.int64),
            dense=self._gather(ranges, "dense", self.dense_width, np.float32),
            vectors=self._vectors(ranges),
            labels=self._gather(ranges, "labels", self.tasks, np.float32),
            weights=self._weights(ranges),
            durations=self._durations(ranges),
            teachers=self._gather(ranges, "teachers", self.teachers, np.float32),
            mask=mask,
            groups=self._keys(ranges, "groups"),
            requests=self._keys(ranges, "requests") if self.requests else torch.zeros(0, dtype=torch.int64),
            firsts=torch.zeros(0, dtype=torch.int64) if firsts is None else torch.from_numpy(firsts),
            epoch=epoch,
            step=step,
        )

    def _gather(self, ranges: RowRanges, name: str, width: int, dtype: type) -> torch.Tensor:
        """(size, width), zero in padding."""
        out: NDArray = np.zeros((self.size, width), dtype)
        at = 0
        for rows, start, stop in ranges:
            out[at : at + stop - start] = getattr(rows, name)[start:stop]
            at += stop - start
        return torch.from_numpy(out)

    def _weights(self, ranges: RowRanges) -> torch.Tensor:
        if any(rows.weights is not None for rows, _, _ in ranges):
            return self._gather(ranges, "weights", self.tasks, np.float32)
        weights = torch.ones(self.size, self.tasks)
        weights[sum(stop - start for _, start, stop in ranges) :] = 0
        return weights

    def _durations(self, ranges: RowRanges) -> torch.Tensor:
        durations = self._gather(ranges, "durations", self.durations, np.float32)
        durations[sum(stop - start for _, start, stop in ranges) :] = 1
        return durations

    def _vectors(self, ranges: RowRanges) -> torch.Tensor:
        """(size, sum of width + 1). Frozen tables are looked up here, per batch: a window's vectors would take more memory than
        all its other columns."""
        out = np.zeros((self.size, sum(i.width + 1 for i in self.pretrained)), np.float32)
        column = 0
        for number, item in enumerate(self.pretrained):
            at = 0
            for rows, start, stop in ranges:
                part = out[at : at + stop - start, column : column + item.width + 1]
                values, missing = rows.vectors[number].values[start:stop], rows.vectors[number].missing[start:stop]
                if item.frozen is None:
                    part[:, :-1] = values
                else:
                    part[~missing, :-1] = item.frozen.vectors[values[~missing]]
                part[:, -1] = missing
                at += stop - start
            column += item.width + 1
        return torch.from_numpy(out)

    def _keys(self, ranges: RowRanges, name: str) -> torch.Tensor:
        """(size,), -1 in padding."""
        out = np.full(self.size, -1, np.int64)
        at = 0
        for rows, start, stop in ranges:
            out[at : at + stop - start] = getattr(rows, name)[start:stop]
            at += stop - start
        return torch.from_numpy(out)

    def _firsts(self, ranges: RowRanges) -> NDArray[np.int64]:
        """(R,): the first sample of each request; padding is the last one."""
        firsts, at = [], 0
        for rows, start, stop in ranges:
            firsts.append(at + np.flatnonzero(begins_of(_runs(rows, start, stop))))
            at += stop - start
        if at < self.size:
            firsts.append(np.array([at]))
        return np.concatenate([np.zeros(0, np.int64), *firsts])

    def _jagged(self, ranges: RowRanges, fill: int, firsts: NDArray[np.int64] | None) -> dict[str, _Jagged]:
        """Jagged values by key; padding has no values. fill: number of padding samples; firsts: of requests."""
        jagged: dict[str, _Jagged] = {}
        real = self.size - fill
        lengths = np.ones(self.size, np.int32)
        lengths[real:] = 0
        holders = np.arange(0) if firsts is None else firsts[firsts < real]
        once = np.zeros(self.size, np.int32)
        once[holders] = 1
        for column, item in enumerate(self.columns.single):
            pieces = [rows.single[column, start:stop] for rows, start, stop in ranges]
            if item.once:
                pieces = [np.concatenate([holders[:0], *pieces])[holders]]
            jagged[item.key] = (pieces, once if item.once else lengths, None)
        for group, items in enumerate(self.columns.lists):
            counts, bounds = self._bounds(ranges, group, holders if self.once and items[0].once else np.arange(real))
            weights = None
            if items[0].weights is not None:
                weights = [x.weights[first:end] for x, first, end in bounds if x.weights is not None]
            for column, item in enumerate(items):
                jagged[item.key] = ([x.values[column][first:end] for x, first, end in bounds], counts, weights)
        return jagged

    def _bounds(
        self, ranges: RowRanges, group: int, holders: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], list[tuple[Lists, int, int]]]:
        """Of the lists of a group: each sample's number of values (size,), and the part that each range takes of the values.
        holders: the samples that have a list."""
        lengths: list[NDArray] = [np.zeros(0, np.int32)]
        bounds = []
        for rows, start, stop in ranges:
            if start == stop:
                continue
            if self.once and self.columns.lists[group][0].once:
                runs = _runs(rows, start, stop)
                start, stop = int(runs[0]), int(runs[-1]) + 1
            offsets = rows.lists[group].offsets[start : stop + 1]
            lengths.append(np.diff(offsets))
            bounds.append((rows.lists[group], int(offsets[0]), int(offsets[-1])))
        counts = np.zeros(self.size, np.int32)
        counts[holders] = np.concatenate(lengths)
        return counts, bounds

    def _keyed(self, keys: list[str], jagged: dict[str, _Jagged], weighted: bool = False) -> KeyedJaggedTensor:
        """The keys' values as one KeyedJaggedTensor. weighted: with weights, which are 1 for keys without weights."""
        if not keys:
            return self.no_ids
        values = _joined(self.buffers, [piece for k in keys for piece in jagged[k][0]], np.int64)
        lengths = _joined(self.buffers, [jagged[k][1] for k in keys], np.int32)
        weights = None
        if weighted:
            weight_pieces: list[NDArray] = []
            for pieces, _, key_weights in (jagged[k] for k in keys):
                weight_pieces += [np.ones(len(p), np.float32) for p in pieces] if key_weights is None else key_weights
            weights = _joined(self.buffers, weight_pieces, np.float32)
        return KeyedJaggedTensor(keys, values, lengths=lengths, weights=weights)

    def _list_weights(self, keys: list[str], jagged: dict[str, _Jagged]) -> KeyedJaggedTensor:
        if not keys:
            return self.no_weights
        values = _joined(self.buffers, [piece for k in keys for piece in jagged[k][2] or ()], np.float32)
        return KeyedJaggedTensor(keys, values, lengths=_joined(self.buffers, [jagged[k][1] for k in keys], np.int32))


def _runs(rows: Rows, start: int, stop: int) -> NDArray[np.int32]:
    if rows.runs is None:
        raise ValueError("rows of an assembler whose layout has inputs with `once` have runs")
    return rows.runs[start:stop]


def _joined(buffers: Buffers, pieces: list[NDArray], dtype: type) -> torch.Tensor:
    joined = buffers.empty((sum(map(len, pieces)),), dtype)
    if pieces:
        np.concatenate(pieces, out=joined, casting="same_kind")
    return torch.from_numpy(joined)
