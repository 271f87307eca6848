"""Decoded rows, in arrays that batches are cut from, and where each input stands in them."""

from dataclasses import dataclass

import fbgemm_gpu  # noqa: F401  its operators
import numpy as np
import torch
from numpy.typing import NDArray

from home_dist.schema import IdInput, InputLayout


@dataclass(frozen=True)
class Lists:
    """Columns whose lists are equally long in each row, as for the fields of one history.

    offsets: (rows + 1,) int64; values: per column (n,), int32 or int64; weights: (n,) float32 of a weighted feature.
    """

    offsets: NDArray[np.int64]
    values: tuple[NDArray, ...]
    weights: NDArray[np.float32] | None = None

    @property
    def lengths(self) -> NDArray[np.int32]:
        return np.diff(self.offsets).astype(np.int32)

    def take(self, index: NDArray[np.int64]) -> "Lists":
        """FBGEMM's operator copies whole lists: some 20 times as fast as an index of each value."""
        chosen, lengths = torch.from_numpy(index.astype(np.int32)), torch.from_numpy(self.lengths)
        total = int(lengths.numpy()[index].sum())
        taken = []
        new = lengths.numpy()[index]
        for values in (*self.values, *(() if self.weights is None else (self.weights,))):
            found = torch.ops.fbgemm.permute_1D_sparse_data(chosen, lengths, torch.from_numpy(values), None, total)[1]
            taken.append(found.numpy())
        offsets = np.zeros(len(index) + 1, np.int64)
        np.cumsum(new, out=offsets[1:])
        return Lists(offsets, tuple(taken[: len(self.values)]), None if self.weights is None else taken[-1])


@dataclass(frozen=True)
class Vectors:
    """A pre-trained feature. values: (rows, width) float32, or, of a frozen table, (rows,) its positions, -1 where missing.

    missing: (rows,).
    """

    values: NDArray
    missing: NDArray[np.bool_]


@dataclass(frozen=True)
class Rows:
    """Decoded rows. Columns of `small` and `single`, (rows, columns), and `lists` are in the order of `Columns`."""

    small: NDArray
    single: NDArray
    lists: tuple[Lists, ...]
    dense: NDArray[np.float32]
    vectors: tuple[Vectors, ...]
    labels: NDArray[np.float32]
    weights: NDArray[np.float32]
    groups: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.groups)

    def take(self, index: NDArray[np.int64]) -> "Rows":
        """The rows `index`, in this order."""
        return Rows(
            small=np.take(self.small, index, axis=0),
            single=np.take(self.single, index, axis=0),
            lists=tuple(x.take(index) for x in self.lists),
            dense=np.take(self.dense, index, axis=0),
            vectors=tuple(Vectors(np.take(v.values, index, axis=0), v.missing[index]) for v in self.vectors),
            labels=np.take(self.labels, index, axis=0),
            weights=np.take(self.weights, index, axis=0),
            groups=self.groups[index],
        )


@dataclass(frozen=True)
class Columns:
    """Where each input stands in `Rows`."""

    small: tuple[IdInput, ...]
    single: tuple[IdInput, ...]
    """One id per sample, for sharded tables."""
    lists: tuple[tuple[IdInput, ...], ...]
    """Groups of list columns with common offsets: one per sequence, one per multi-valued feature."""

    @staticmethod
    def of(layout: InputLayout) -> "Columns":
        single = tuple(i for i in layout.features if not i.is_list and i.place != "small")
        together = tuple(tuple(e.field for e in s.fields) for s in layout.sequences)
        alone = tuple((i,) for i in layout.features if i.is_list)
        return Columns(layout.at("small"), single, (*together, *alone))
