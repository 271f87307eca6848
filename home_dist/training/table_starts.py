"""Rows that begin with vectors trained elsewhere, in place of drawn values: `[embedding.tables.NAME] start`.

The folder is a frozen table (schema/frozen.py), memory-mapped. Vectors are matched with rows by key: by the table's
vocabulary, by its hash, or, where columns hold rows and no vocabulary tells of what, by the row's number. Each rank goes over
all keys, piece by piece, and reads the vectors of the rows that it holds.
"""

import socket
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn

from home_dist.data.inputs import Inputs
from home_dist.data.matching_rows import RunSide, Unknown, opened, pieces_of
from home_dist.data.side_files import side_file
from home_dist.distributed.ranks import together
from home_dist.errors import ConfigError, DataError
from home_dist.ids.hashing import rows_of_hashes
from home_dist.ids.keys import KeyType
from home_dist.ids.rows import HashRows
from home_dist.schema import Table
from home_dist.schema.frozen import FrozenTable, open_frozen
from home_dist.schema.values import HashValues, VocabularyValues
from home_dist.training.stored_tables import all_tables, parts_here, replicated_tables

_PIECE = 1 << 20  # keys at a time
_VALUES = 1 << 24  # of vectors that are in memory at a time
_SEED_OF_TEXTS = 0  # of the hash by which a frozen table knows a text

Places = NDArray[np.int64]
Pairs = Iterator[tuple[Places, Places]]
"""(places of vectors, -1 for none; the rows of the same keys), piece by piece."""
_PROBES = 4096


@dataclass(frozen=True)
class _Start:
    """The vectors of one table."""

    table: Table
    folder: Path
    frozen: FrozenTable
    pairs: Callable[[FrozenTable], Pairs]
    how: str
    """By what vectors are matched with rows."""

    @property
    def key(self) -> str:
        return f"embedding.tables.{self.table.name}.start"

    def fill(self, parts: list[tuple[int, int, torch.Tensor]]) -> str:
        """parts: (first row, first column, values) of the table on this rank. Returns a line for the screen."""
        found = 0
        for places, rows in self._matched():
            found += len(rows)
            for first, column, values in parts:
                here = np.flatnonzero((rows >= first) & (rows < first + len(values)))
                here = here[np.argsort(places[here], kind="stable")]  # vectors are read in their order on disk
                step = max(1, _VALUES // self.table.dim)
                for begin in range(0, len(here), step):
                    block = here[begin : begin + step]
                    vectors = self._vectors(places[block])[:, column : column + values.shape[1]]
                    own, last = np.unique(rows[block][::-1] - first, return_index=True)
                    taken = torch.from_numpy(np.ascontiguousarray(vectors[::-1][last]))
                    values[torch.from_numpy(own).to(values.device)] = taken.to(values)
        told = f"table {self.table.name}: begins with vectors of {found:,} keys"
        return f"{told} ({self.table.rows:,} rows), {self.how}, from {self.folder}"

    def check(self) -> None:
        """Raises DataError if no vector belongs to a row."""
        if not any(len(rows) for _, rows in self._matched()):
            raise DataError(
                f"{self.folder}: it holds no key of table {self.table.name!r}. Write it of the same keys, or remove {self.key}."
            )

    def _matched(self) -> Pairs:
        """The pairs of keys that have both a vector and a row."""
        for places, rows in self.pairs(self.frozen):
            kept = (places >= 0) & (rows < self.table.rows)  # the table may have its last rows cut off
            yield places[kept], rows[kept]

    @property
    def mark(self) -> tuple[object, ...]:
        """Equal for copies of one folder: sizes, and sums over some of the keys and vectors."""
        at = np.linspace(0, len(self.frozen.keys) - 1, min(len(self.frozen.keys), _PROBES)).astype(np.int64)
        parts = (self.frozen.keys[at], self.frozen.vectors[at])
        return (self.frozen.vectors.shape, *(zlib.crc32(np.ascontiguousarray(part).tobytes()) for part in parts))

    def _vectors(self, places: Places) -> NDArray[np.float32]:
        """(n, dim), with a copy for each of the sets of vectors that a row holds."""
        vectors = self.frozen.vectors[places].astype(np.float32)
        largest = torch.finfo(torch.float16 if self.table.half else torch.float32).max
        wrong = ~(np.abs(vectors) <= largest).all(1)
        if wrong.any():
            at = int(places[np.argmax(wrong)])
            raise DataError(
                f"{self.folder}: vector {at} holds NaN, infinity or more than {largest:g}. {self.key} needs numbers."
            )
        return np.tile(vectors, (1, self.table.sets))


class TableStarts:
    """Fills rows of tables, in place, with vectors of the folders that the configuration names."""

    def __init__(self, inputs: Inputs):
        """Opens and checks all folders. Raises ConfigError or DataError."""
        side, tables = RunSide(inputs.config, inputs.schema, {}), all_tables(inputs.layout)
        self.layout, self.starts = inputs.layout, list[_Start]()
        for name, section in inputs.config.embedding.tables.items():
            if section.start is None:
                continue
            if name not in tables:
                raise ConfigError(f"embedding.tables.{name}.start: no feature or history of this run reads the table")
            self.starts.append(_open(side, tables[name], Path(section.start)))
            self.starts[-1].check()

    @staticmethod
    def of_all_ranks(inputs: Inputs) -> "TableStarts | None":
        """None without any start. Collective. Raises UserError, also where hosts have different copies of a folder."""
        if all(t.start is None for t in inputs.config.embedding.tables.values()):
            return None
        starts = together(lambda: TableStarts(inputs))
        of_first = [[s.mark for s in starts.starts]]
        dist.broadcast_object_list(of_first)
        together(lambda: starts._refuse_other_copies(of_first[0]))
        return starts

    def _refuse_other_copies(self, marks: list[tuple[object, ...]]) -> None:
        for start, mark in zip(self.starts, marks, strict=True):
            if start.mark != mark:
                raise DataError(
                    f"{start.folder} on {socket.gethostname()}: holds other vectors than on the first rank's host. "
                    f"{start.key} needs equal copies: copy it again."
                )

    @torch.no_grad()
    def fill(self, model: nn.Module) -> list[str]:
        """Fills the parts of tables on this rank. Returns a line per table, the same on all ranks. Raises DataError for vectors
        that are not finite, or too large for the table."""
        small = replicated_tables(self.layout)
        return [start.fill(list(parts_here(model, start.table, small))) for start in self.starts]


def _open(side: RunSide, table: Table, folder: Path) -> _Start:
    kind: KeyType
    pairs: Callable[[FrozenTable], Pairs]
    key, values = f"embedding.tables.{table.name}.start", side.values(table.name)
    if isinstance(values, HashValues):
        if values.type == "text" and values.seed != _SEED_OF_TEXTS:
            told = f"the table hashes them with seed {values.seed}: their rows cannot be told"
            raise ConfigError(
                f"{key}: a folder of vectors knows texts by their hash with seed {_SEED_OF_TEXTS}, and {told}. Prepare the "
                f"data with seed {_SEED_OF_TEXTS}, or leave start out"
            )
        kind, pairs, how = values.type, _hashed(values, table.rows), "by the table's hash"
    else:
        place, given = side.place(table.name), values is not None or side.spec(table.name).origin is not None
        path = side_file(side.config, place)
        if path is not None:
            kind, pairs = _by_vocabulary(side, table, path, values, key)
            how = "by the vocabulary"
        elif given:
            raise DataError(f"{key}: no {place} beside the schema tells of which key a row is. Copy it there.")
        else:
            kind, pairs, how = "integer", _by_number(table.rows), f"by the row's number, as no {place} tells of which key it is"
    width = "" if table.replicated else ", which must be a multiple of 4"
    frozen = open_frozen(folder, table.shared_dim, kind, key, f"Set embedding.tables.{table.name}.dim to their width{width}")
    return _Start(table, folder, frozen, pairs, how)


def _hashed(values: HashValues, rows: int) -> Callable[[FrozenTable], Pairs]:
    def pairs(frozen: FrozenTable) -> Pairs:
        of_integers = HashRows("integer", values.seed, rows)
        for first in range(0, len(frozen.keys), _PIECE):
            keys = np.array(frozen.keys[first : first + _PIECE])
            of_texts = values.type == "text"
            found = rows_of_hashes(keys.view(np.uint64), rows) if of_texts else of_integers(pa.array(keys))
            yield np.arange(first, first + len(keys)), found

    return pairs


def _by_number(rows: int) -> Callable[[FrozenTable], Pairs]:
    def pairs(frozen: FrozenTable) -> Pairs:
        for first in range(1, rows, _PIECE):  # row 0 is of missing keys
            numbers = np.arange(first, min(rows, first + _PIECE))
            yield frozen.positions(pa.array(numbers)), numbers

    return pairs


def _by_vocabulary(
    side: RunSide, table: Table, path: Path, values: VocabularyValues | None, key: str
) -> tuple[KeyType, Callable[[FrozenTable], Pairs]]:
    """Raises DataError for a vocabulary that is not the table's."""
    try:
        file = opened(path, side, table, values)
    except Unknown as why:
        raise DataError(f"{key}: {why}, so that no row is known. Restore it, or leave the key out.") from None
    first = 1 + (values.unknown_rows if values is not None else 0)

    def pairs(frozen: FrozenTable) -> Pairs:
        for keys, rows in pieces_of(file, first, side.declared(table.name)):
            yield frozen.positions(keys), rows

    return file.kind, pairs
