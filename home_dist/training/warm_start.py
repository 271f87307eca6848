"""Warm start: a new run takes over tables, dense tensors, or both from another run.

Rows of tables are matched by key (matching_rows.py), entries of dense tensors by the names of tasks, groups, experts and
features (axes.py). Rows and entries without a match keep their initial values. Optimizers start afresh. The report has a line
per table and dense tensor.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from home_dist.axes import axes_of
from home_dist.config import WarmStartSection
from home_dist.data.inputs import Inputs
from home_dist.data.side_files import with_local_schema
from home_dist.embeddings.collections import table_shards
from home_dist.embeddings.replicated import ReplicatedTables
from home_dist.errors import CheckpointError, ConfigError
from home_dist.layers.axis_names import Axes, Names
from home_dist.network import Head
from home_dist.schema import InputLayout, SequenceInput, Table, build_layout
from home_dist.training.checkpoint.of_run import find
from home_dist.training.checkpoint.pieces import Stored
from home_dist.training.checkpoint.reading import open_stored
from home_dist.training.matching_rows import Map, RunSide, Unknown, same_rows
from home_dist.training.run_folder import RunFolder

_NAMED = 5  # names listed in a line at most


@dataclass(frozen=True)
class Place:
    """Position of a table in a checkpoint: rows first .. first + rows - 1 of `tensor`."""

    tensor: str
    first: int
    rows: int


class WarmStart:
    """Takes values over from a checkpoint of another run. Raises CheckpointError or ConfigError."""

    def __init__(self, section: WarmStartSection, inputs: Inputs):
        self.section, self.inputs = section, inputs
        self.checkpoint = find(Path(section.source))
        run = RunFolder(self.checkpoint.parent.parent)
        given, self.schema = run.open()
        self.there = RunSide.of(run, given, self.schema)
        self.here = RunSide(inputs.config, inputs.schema, {})
        self.config = with_local_schema(given)
        self.trained = self.schema.only(self.config.data.tasks) if self.config.data.tasks else self.schema
        self.layout = build_layout(self.trained, self.config)
        self.stored, _ = open_stored(self.checkpoint)
        self.places = dict(table_places(self.layout, self.stored))
        self.tables = all_tables(inputs.layout)
        self.small = replicated_tables(inputs.layout)
        here = set(self.tables)
        for new, old in section.rename.items():
            if new not in here:
                raise ConfigError(f"checkpoint.warm_start.rename.{new}: no such table in this run; there are: {_some(here)}")
            if old not in self.places:
                raise ConfigError(f"checkpoint.warm_start.rename.{new}: {old!r} is no table of {self.checkpoint}")
        unknown = sorted(set(section.tables or ()) - here)
        if unknown:
            raise ConfigError(f"checkpoint.warm_start.tables: {unknown[0]!r} is no table of this run; there are: {_some(here)}")

    @torch.no_grad()
    def fill(self, model: nn.Module) -> list[str]:
        """Fills, in place, the part of the model on this rank. Returns the report, the same on all ranks."""
        lines = [f"warm start from {self.checkpoint}"]
        anew: set[str] = set()
        for _, table in sorted(self.tables.items()):
            report, matched = self._table(model, table)
            lines.append(f"  table {table.name}: {report}")
            if not matched:
                anew.add(table.name)
        lines += [f"  dense {name}: {report}" for name, report in self._dense(model, anew)]
        return lines

    def _table(self, model: nn.Module, table: Table) -> tuple[str, bool]:
        """(line of the report, whether the table's vectors mean the same as in the other run)"""
        if self.section.tables is not None and table.name not in self.section.tables:
            return "not asked for", True
        name = self.section.rename.get(table.name, table.name)
        before = all_tables(self.layout).get(name)
        if before is None:
            return "not there; first values stay", False
        if before.dim != table.dim:
            return f"width {before.dim} there, {table.dim} here; first values stay", False
        try:
            rows, how = self._rows(before, table)
        except Unknown as why:
            return f"{why}; first values stay", False
        for first, column, values in self._targets(model, table):
            _gather(self.stored, self.places[name], rows[first : first + len(values)], column, values)
        taken = int((rows >= 0).sum())
        renamed = f" of {name}" if name != table.name else ""
        rest = table.rows - taken
        report = f"{taken:,} of {table.rows:,} rows{renamed}, {how}" + (f"; {rest:,} keep their first values" if rest else "")
        return report, True

    def _targets(self, model: nn.Module, table: Table) -> Iterator[tuple[int, int, torch.Tensor]]:
        """(first row, first column, values) of each part of the table on this rank."""
        if table.replicated:
            weight, first = self.small.place(table.name)
            whole = next(v for n, v in model.state_dict().items() if n.endswith(f"features.replicated.weights.{weight}"))
            yield 0, 0, whole[first : first + table.rows]
            return
        for shard in table_shards(model):
            if shard.table == table.name:
                yield shard.first_row, shard.first_column, shard.values

    def _rows(self, before: Table, now: Table) -> tuple[Map, str]:
        statistics = [{f.name: f for f in s.feature if f.kind == "statistic"} for s in (self.schema, self.inputs.schema)]
        if now.name in statistics[1]:
            old, new = statistics[0].get(before.name), statistics[1][now.name]
            if old is None or old.boundaries != new.boundaries:
                raise Unknown("its boundaries are others")
            return np.arange(now.rows), "bucket by bucket"
        if before.managed or now.managed:  # without the map from ids to rows, the rows mean nothing
            raise Unknown("its rows were given to ids as they came, which a warm start does not take over")
        return same_rows(self.there, self.here, before, now)

    def _dense(self, model: nn.Module, anew: set[str]) -> Iterator[tuple[str, str]]:
        """(tensor, report) per dense tensor. anew: tables whose vectors do not mean the same as in the other run."""
        tables = {s.table for s in table_shards(model)}
        with torch.random.fork_rng(devices=[]):  # leaves the run's random numbers unchanged
            other_head = Head(self.trained, self.layout, self.config)
        before = axes_of(other_head, self.trained)
        now = axes_of(next(m for m in model.modules() if isinstance(m, Head)), self.inputs.schema, _changed(self.inputs, anew))
        for name, value in model.state_dict().items():
            if ".replicated." in name or name.startswith("managed."):
                continue
            if name.split(".")[-2:-1] and name.split(".")[-2] in tables:
                continue
            logical, inner = f"dense/{name}", name.removeprefix("head.")
            if not self.section.dense:
                yield name, "not asked for"
            elif logical not in self.stored.tensors:
                yield name, "not there; first values stay"
            elif inner.startswith("features.encoders.") and not self._same_history(inner.split(".")[2], anew):
                yield name, "its history has other columns, tables or targets; first values stay"
            else:
                yield name, self._take(value, logical, before.get(inner), now.get(inner))

    def _take(self, value: torch.Tensor, logical: str, before: Axes | None, now: Axes | None) -> str:
        shape = self.stored.shape(logical)
        unnamed: Axes = (None,) * value.dim()
        old, new = before or unnamed, now or unnamed
        other = f"shape {shape} there, {tuple(value.shape)} here; first values stay"
        if len(shape) != value.dim() or len(old) != len(new):
            return other
        places: list[tuple[Map, Map]] = []
        lacking: dict[str, None] = {}
        for size, stored_size, theirs, ours in zip(value.shape, shape, old, new, strict=True):
            if (theirs is None or ours is None) and size != stored_size:
                return other
            matched, missing = _matched(size, theirs, ours)
            places.append(matched)
            lacking |= dict.fromkeys(missing)
        if any(not len(here) for here, _ in places):
            return f"nothing of it is known there by name ({_some(lacking)}); first values stay"
        whole = self.stored.whole(logical).to(value)
        if tuple(shape) == tuple(value.shape) and all(
            len(here) == size and np.array_equal(here, there) for (here, there), size in zip(places, value.shape, strict=True)
        ):
            value.copy_(whole)
            return "taken"
        here, there = ([torch.from_numpy(p[side]).to(value.device) for p in places] for side in (0, 1))
        value[torch.meshgrid(*here, indexing="ij")] = whole[torch.meshgrid(*there, indexing="ij")]
        return "taken by name" + (f"; first values stay for {_some(lacking)}" if lacking else "")

    def _same_history(self, name: str, anew: set[str]) -> bool:
        old, new = ({s.name: s for s in layout.sequences}.get(name) for layout in (self.layout, self.inputs.layout))
        return old is not None and new is not None and _fields(old) == _fields(new) and not _tables_of(new) & anew


def _fields(sequence: SequenceInput) -> list[tuple[str, int, str | None]]:
    return [(e.field.column, e.field.table.dim, e.target.key if e.target else None) for e in sequence.fields]


def _tables_of(sequence: SequenceInput) -> set[str]:
    return {e.field.table.name for e in sequence.fields}


def _changed(inputs: Inputs, anew: set[str]) -> set[str]:
    """Features and histories, named as in `axes`, that look up tables of `anew`."""
    features = {i.key for i in inputs.layout.features if i.table.name in anew}
    return features | {f"history {s.name}" for s in inputs.layout.sequences if _tables_of(s) & anew}


def _matched(size: int, theirs: Names | None, ours: Names | None) -> tuple[tuple[Map, Map], list[str]]:
    """(places here and there with the same names, entities here that the other run lacks). Without names all places match."""
    if theirs is None or ours is None:
        return (np.arange(size), np.arange(size)), []
    known = {name: place for place, name in enumerate(theirs)}
    here = [place for place, name in enumerate(ours) if name in known]
    lacking = [entity for entity, number in ours if (entity, number) not in known]
    return (np.array(here, np.int64), np.array([known[ours[place]] for place in here], np.int64)), lacking


def all_tables(layout: InputLayout) -> dict[str, Table]:
    """Tables by name, including tables of statistics' buckets."""
    return {i.table.name: i.table for i in layout.inputs}


def replicated_tables(layout: InputLayout) -> ReplicatedTables:
    """Replicated tables as the network makes them, to look up each table's place."""
    return ReplicatedTables([i for i in layout.inputs if i.table.replicated], 0.0)


def table_places(layout: InputLayout, stored: Stored) -> Iterator[tuple[str, Place]]:
    small = replicated_tables(layout)
    for table in all_tables(layout).values():
        if table.replicated:
            weight, first = small.place(table.name)
            tensor = f"dense/head.features.replicated.weights.{weight}"
        else:
            tensor, first = f"tables/{table.name}/weight", 0
        if tensor not in stored.tensors:
            raise CheckpointError(f"{stored.folder}: it holds no {tensor}, which its run's schema asks for. Use another one.")
        yield table.name, Place(tensor, first, table.rows)


def _gather(stored: Stored, place: Place, rows: Map, column: int, out: torch.Tensor) -> None:
    """Sets out[i] to row rows[i] of the stored table unless rows[i] is -1. Reads the table block by block."""
    wanted = np.flatnonzero(rows >= 0)
    order = wanted[np.argsort(rows[wanted], kind="stable")]
    sorted_rows = rows[order] + place.first
    for first, values in stored.rows(place.tensor):
        begin, end = np.searchsorted(sorted_rows, [first, first + len(values)])
        if begin < end:
            taken = torch.from_numpy(sorted_rows[begin:end] - first)
            out[torch.from_numpy(order[begin:end])] = values[taken, column : column + out.shape[1]].to(out)


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return ", ".join(listed[:_NAMED]) + more or "none"
