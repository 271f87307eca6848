"""One version of a run that trains, as all ranks write it together, beside training."""

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist

from home_dist.config.publish import PublishSection
from home_dist.distributed.ranks import tried_together
from home_dist.export.meaning import ModelMeaning
from home_dist.export.source import served_tensors
from home_dist.publish.folder import VersionsFolder
from home_dist.publish.keys import vocabulary_ids
from home_dist.publish.live_golden import LiveGolden
from home_dist.publish.live_tables import Changes, LiveRows
from home_dist.publish.manifest import Manifest, PublishError, VersionTable, version_name
from home_dist.publish.rows_file import RowsFile
from home_dist.publish.writing import Facts, RankPart, begun, rows_file, undone, write_aliases, write_rest
from home_dist.schema import InputLayout
from home_dist.training.checkpoint.pieces import Piece
from home_dist.training.stored_tables import all_tables, replicated_tables, replicated_weight

Result = TypeVar("Result")
Base = tuple[Manifest, str]
"""A version and its manifest's SHA-256."""


class Together:
    """What publishing threads of all ranks do together, in a process group of their own."""

    def __init__(self) -> None:
        self.group = dist.new_group(backend="gloo")
        self.ranks = dist.get_world_size()

    def all(self, action: Callable[[], Result]) -> Result:
        """Runs the action on each rank. Raises PublishError on all ranks if it fails on one."""
        # Whatever the error is, the others must hear of it, and the run must go on.
        result, _, failures = tried_together(action, Exception, self.group)
        for rank, failure in sorted(failures.items()):
            raise PublishError(failure.text if self.ranks == 1 else f"rank {rank}: {failure.text}")
        return result  # type: ignore[return-value]

    def first(self, action: Callable[[], Result]) -> Result:
        """Runs the action on the first rank. Returns its result on all ranks. Raises PublishError on all."""
        found = [self.all(lambda: action() if not dist.get_rank() else None)]
        dist.broadcast_object_list(found, 0, self.group)
        return found[0]  # type: ignore[return-value]

    def gathered(self, own: Any) -> list[Any]:
        """What each rank has, on the first one; empty on others."""
        found: list[Any] | None = None if dist.get_rank() else [None] * self.ranks
        dist.gather_object(own, found, 0, self.group)
        return found or []


class LiveModel:
    """What versions tell of a run's model. The same for all its versions."""

    def __init__(self, meaning: ModelMeaning, layout: InputLayout, averaged: bool, tables: Mapping[str, VersionTable]):
        """Raises DataError for a vocabulary that cannot be opened."""
        self.meaning, self.layout, self.averaged, self.tables = meaning, layout, averaged, dict(tables)
        places = replicated_tables(layout)
        self._small = {t.name: (*places.place(t.name), t.rows) for t in all_tables(layout).values() if t.replicated}
        self._ids = {n: vocabulary_ids(meaning, layout, n) for n, t in all_tables(layout).items() if not t.managed}

    def write(self, file: RowsFile, rows: LiveRows, told: bool) -> None:
        """told: whether the base, or this file, has told which ids a vocabulary gives to these rows: a delta needs not read it.
        Raises PublishError, OSError."""
        if rows.lost is not None:
            file.evicted(rows.table, rows.lost[0], pa.array(rows.lost[1]))
        values, vocabulary = rows.values.float().numpy(), self._ids.get(rows.table)
        if told and rows.owners is None:
            file.values(rows.table, rows.slots, values, rows.first_column)
            return
        ids = rows.ids if vocabulary is None else vocabulary.take(rows.slots)
        file.rows(rows.table, rows.slots, values, ids, rows.first_column)

    def small(self, dense: Mapping[str, torch.Tensor]) -> Iterable[LiveRows]:
        """Replicated tables, which lie among dense tensors."""
        for name, (key, first, rows) in self._small.items():
            values = dense[f"dense/{replicated_weight(key)}"][first : first + rows]
            yield LiveRows(name, np.arange(rows), values)

    def served(self, dense: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """As a version has them."""
        found = served_tensors(dense.keys(), self.averaged).items()
        return {n.removeprefix("dense/"): dense[own] for n, own in found if n.startswith("dense/head.")}

    def head(self, dense: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """By name, with replicated tables."""
        small = {n.removeprefix("dense/"): values for n, values in dense.items() if n.startswith("dense/head.")}
        return {n.removeprefix("head."): values for n, values in (small | self.served(dense)).items()}


@dataclass(frozen=True)
class Copied:
    """What a rank has copied at the version's step."""

    facts: Facts
    changes: Changes
    golden: list[LiveRows]
    newest_data: Callable[[], float | None]
    """Takes its time, and is asked for on the first rank."""


@dataclass(frozen=True)
class VersionWriter:
    """Of one rank, in its publishing thread. Its methods are called on all ranks, and raise PublishError on all."""

    folder: VersionsFolder
    """Claimed by the first rank."""
    together: Together
    model: LiveModel
    section: PublishSection

    def write(
        self,
        full: bool,
        base: Base | None,
        swept: Callable[[], Iterable[LiveRows]],
        copied: Callable[[], Copied],
        golden: LiveGolden | None,
    ) -> Base | None:
        """base: of a delta, on the first rank. swept: all rows, which a full version begins with. copied: waits for the
        version's step, and raises PublishError if it does not come. golden: on the first rank. Returns the version there."""
        together, part, first = self.together, RankPart(), not dist.get_rank()
        version = version_name(together.first(self._number))
        with ExitStack() as undo:
            together.all(lambda: undo.enter_context(undone(self.folder, version)) if first else None)
            with ExitStack() as stream:
                opened = rows_file(self.folder, version, dist.get_rank(), self.section.rows, part)
                file = together.all(lambda: stream.enter_context(opened))
                told = together.all(lambda: self._sweep(file, swept())) if full else self.model.tables.keys()
                copy = together.all(copied)
                dense = joined([p for pieces in together.gathered(copy.changes.dense) for p in pieces])
                together.all(lambda: self._changes(file, copy.changes.rows, dense, told, full))
                together.all(stream.close)
            gathered = together.gathered((part, copy.golden))
            parts, found = [p for p, _ in gathered], [rows for _, own in gathered for rows in own]

            def finish() -> Base:
                requests = None if golden is None else golden.answered(self.model.head(dense), found)
                model, meaning = self.model, self.model.meaning
                facts = replace(copy.facts, newest_data=copy.newest_data())
                manifest = begun(version, base, facts, meaning, model.tables, self.section.rows)
                self.folder.refuse_missing(version, [part.files for part in parts])
                return write_rest(self.folder, manifest, parts, model.served(dense), meaning if full else None, requests)

            return together.all(lambda: finish() if first else None)

    def _number(self) -> int:
        number = self.folder.next_number()
        self.folder.clear_unfinished()
        return number

    def _sweep(self, file: RowsFile, swept: Iterable[LiveRows]) -> Collection[str]:
        """Returns the tables of which it has written all rows of this rank."""
        tables = set()
        for rows in swept:
            self.model.write(file, rows, told=False)
            tables.add(rows.table)
        return tables

    def _changes(
        self,
        file: RowsFile,
        rows: Iterable[LiveRows],
        dense: Mapping[str, torch.Tensor],
        told: Collection[str],
        full: bool,
    ) -> None:
        """told: tables whose ids have been told."""
        for changed in rows:
            self.model.write(file, changed, changed.table in told)
        if not dist.get_rank():
            for small in self.model.small(dense):
                self.model.write(file, small, small.table in told)
            if full:
                write_aliases(file, self.model.meaning, self.model.tables)


def joined(pieces: Iterable[Piece]) -> dict[str, torch.Tensor]:
    """Whole tensors from their pieces, which are boxes."""
    found: dict[str, torch.Tensor] = {}
    for piece in pieces:
        whole = found.setdefault(piece.name, torch.empty(piece.shape, dtype=piece.values.dtype))
        box = tuple(slice(first, first + size) for first, size in zip(piece.offsets, piece.values.shape, strict=True))
        whole[box] = piece.values
    return found
