"""Samples the rows of some files, the same rows in every epoch: they are a pure function of seed, file and row group.

The number of rows that a slice of a row group keeps is known without reading it, and so is the number of an epoch's steps.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from home_dist.data.files import DataFiles
from home_dist.data.order import RowGroup
from home_dist.errors import DataError
from home_dist.files.listing import matches

_SAMPLE = 3  # purpose of the random streams; 1 and 2 are order.py's
_ORDER, _ROUNDING = 1, 2


class Sampler:
    def __init__(self, files: DataFiles, rates: Mapping[str, float], seed: int):
        """rates: by pattern of file names below the split's folder. The first pattern that matches a file sets its rate."""
        self.files, self.seed = files, seed
        self.rates = [next((r for p, r in rates.items() if matches(n, p)), 1.0) for n in files.names]
        for pattern in rates:
            if not any(matches(n, pattern) for n in files.names):
                examples = ", ".join(files.names[:3])
                raise DataError(f"data.sample: {pattern!r} matches none of the training files, such as {examples}. Correct it.")
        self._keys = [int.from_bytes(hashlib.sha256(n.encode()).digest()[:8], "little") for n in files.names]
        self._sizes = {(g.file, g.group): g.rows for g in files.groups}

    def sample(self, slices: Sequence[RowGroup]) -> list[RowGroup]:
        """The slices, each with the number of rows that it keeps, without empty ones. Raises DataError if none are left."""
        kept = []
        chosen = np.zeros(0, np.int64)
        for group in slices:
            if self.rates[group.file] >= 1:
                kept.append(group)
                continue
            size = self._sizes[group.file, group.group]
            if group.rows == size:
                rows = self._count(group.file, group.group, size)
            else:
                if group.start == 0:  # slices of a row group follow each other
                    chosen = self._of_group(group.file, group.group)
                rows = int(np.diff(np.searchsorted(chosen, [group.start, group.stop]))[0])
            if rows:
                kept.append(group._replace(rows=rows, sampled_from=group.rows))
        self.refuse_none(bool(kept))
        return kept

    def refuse_none(self, any_kept: bool) -> None:
        if not any_kept:
            raise DataError("data.sample leaves no row of the training files. Raise its rates.")

    def chosen(self, group: RowGroup) -> NDArray[np.int64]:
        """(group.rows,): indices of the sampled rows within the slice, increasing."""
        of_group = self._of_group(group.file, group.group)
        first, last = np.searchsorted(of_group, [group.start, group.stop])
        return of_group[first:last] - group.start

    def fingerprint(self) -> str:
        said = repr((self.files.fingerprint(), self.rates, self.seed))
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    def _of_group(self, file: int, group: int) -> NDArray[np.int64]:
        """Indices of the row group's sampled rows, increasing. They do not depend on how it is cut into slices."""
        return self.chosen_of(file, group, self._sizes[file, group])

    def chosen_of(self, file: int, group: int, count: int) -> NDArray[np.int64]:
        """Indices of the sampled ones among `count` rows or requests of a row group, increasing."""
        order = self._random(file, group, _ORDER).permutation(count)
        return np.sort(order[: self._count(file, group, count)])

    def _count(self, file: int, group: int, size: int) -> int:
        return int(self.rates[file] * size + self._random(file, group, _ROUNDING).random())

    def _random(self, file: int, group: int, purpose: int) -> np.random.Generator:
        key = (self.seed, _SAMPLE, purpose, self._keys[file], group)
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
