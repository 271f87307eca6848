"""A new run that begins with what another one has learned: some of its tables, its dense part, or both.

A table's rows are found by key where both data folders have a vocabulary of it, so that a grown or reordered vocabulary keeps
its rows; new keys keep their first values. Optimizers start afresh. Everything is told, a line per table and dense tensor.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import nn

from home_dist.config import RunConfig, WarmStartSection
from home_dist.data.side_files import with_local_schema
from home_dist.embeddings.collections import table_shards
from home_dist.embeddings.replicated import ReplicatedTables
from home_dist.errors import CheckpointError, ConfigError
from home_dist.schema import InputLayout, Table, build_layout
from home_dist.training.build import Inputs
from home_dist.training.checkpoint import open_stored
from home_dist.training.checkpoint.looking import find
from home_dist.training.checkpoint.pieces import Stored
from home_dist.training.run_folder import RunFolder

Map = NDArray[np.int64]
"""(rows here,): the row there that each row takes its values from; -1 for none."""


@dataclass(frozen=True)
class Place:
    """Where a checkpoint keeps a table: rows first .. first + rows - 1 of a tensor."""

    tensor: str
    first: int
    rows: int


class WarmStart:
    """Reads the other run. Raises CheckpointError or ConfigError."""

    def __init__(self, section: WarmStartSection, inputs: Inputs):
        self.section, self.inputs = section, inputs
        self.checkpoint = find(Path(section.source))
        run = RunFolder(self.checkpoint.parent.parent)
        there, self.schema = run.open()
        self.config = with_local_schema(there)
        schema = self.schema.only(self.config.data.tasks) if self.config.data.tasks else self.schema
        self.layout = build_layout(schema, self.config)
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
        """In place, on each rank what lies there. Returns the report, the same on all ranks."""
        lines = [f"warm start from {self.checkpoint}"]
        lines += [f"  table {t.name}: {self._table(model, t)}" for _, t in sorted(self.tables.items())]
        lines += [f"  dense {name}: {told}" for name, told in self._dense(model)]
        return lines

    def _table(self, model: nn.Module, table: Table) -> str:
        if self.section.tables is not None and table.name not in self.section.tables:
            return "not asked for"
        name = self.section.rename.get(table.name, table.name)
        before = all_tables(self.layout).get(name)
        if before is None:
            return "not there; first values stay"
        if before.dim != table.dim:
            return f"width {before.dim} there, {table.dim} here; first values stay"
        rows, how = self._rows(before, table)
        if rows is None:
            return f"{how}; first values stay"
        for first, column, values in self._targets(model, table):
            _gather(self.stored, self.places[name], rows[first : first + len(values)], column, values)
        taken = int((rows >= 0).sum())
        renamed = f" of {name}" if name != table.name else ""
        rest = table.rows - taken
        return f"{taken:,} of {table.rows:,} rows{renamed}, {how}" + (f"; {rest:,} keep their first values" if rest else "")

    def _targets(self, model: nn.Module, table: Table) -> Iterator[tuple[int, int, torch.Tensor]]:
        """(first row, first column, values) of what of a table lies on this rank."""
        if table.replicated:
            weight, first = self.small.place(table.name)
            whole = next(v for n, v in model.state_dict().items() if n.endswith(f"features.replicated.weights.{weight}"))
            yield 0, 0, whole[first : first + table.rows]
            return
        for shard in table_shards(model):
            if shard.table == table.name:
                yield shard.first_row, shard.first_column, shard.values

    def _rows(self, before: Table, now: Table) -> tuple[Map | None, str]:
        statistics = [{f.name: f for f in s.feature if f.kind == "statistic"} for s in (self.schema, self.inputs.schema)]
        if now.name in statistics[1]:
            old, new = statistics[0].get(before.name), statistics[1][now.name]
            if old is None or old.boundaries != new.boundaries:
                return None, "its boundaries are others"
            return np.arange(now.rows), "bucket by bucket"
        paths = [vocabulary_path(c, t.name) for c, t in ((self.config, before), (self.inputs.config, now))]
        if not all(p.is_file() for p in paths):
            if before.rows != now.rows:
                missing = next(p for p in paths if not p.is_file())
                return None, f"{before.rows:,} rows there, and no {missing} tells which is which"
            return np.arange(now.rows), "row by row"
        old_keys, new_keys = (pq.read_table(p, columns=["value", "row"]) for p in paths)
        if old_keys.schema.field("value").type != new_keys.schema.field("value").type:
            return None, "its vocabularies hold keys of different types"
        if old_keys.num_rows and int(np.max(old_keys["row"])) >= self._declared(before.name):
            return None, f"{paths[0]} is not the vocabulary that it was trained with"
        at = pc.index_in(new_keys["value"], value_set=old_keys["value"].combine_chunks()).combine_chunks()
        rows = np.asarray(new_keys["row"])
        there = np.asarray(pc.fill_null(pc.take(old_keys["row"], at), -1))
        kept = (rows < now.rows) & (there < before.rows)  # tails may be cut, here or there
        found = np.full(now.rows, -1, np.int64)
        found[0] = 0  # missing and out of vocabulary
        found[rows[kept]] = there[kept]
        return found, "by key"

    def _declared(self, table: str) -> int:
        return self.schema.table_rows()[table]

    def _dense(self, model: nn.Module) -> Iterator[tuple[str, str]]:
        tables = {s.table for s in table_shards(model)}
        for name, value in model.state_dict().items():
            if ".replicated." in name or (name.split(".")[-2:-1] and name.split(".")[-2] in tables):
                continue
            logical = f"dense/{name}"
            if not self.section.dense:
                yield name, "not asked for"
            elif logical not in self.stored.tensors:
                yield name, "not there; first values stay"
            elif self.stored.shape(logical) != tuple(value.shape):
                yield name, f"shape {self.stored.shape(logical)} there, {tuple(value.shape)} here; first values stay"
            else:
                value.copy_(self.stored.whole(logical))
                yield name, "taken"


def all_tables(layout: InputLayout) -> dict[str, Table]:
    """By name; those of statistics' buckets too."""
    return {i.table.name: i.table for i in layout.inputs}


def vocabulary_path(config: RunConfig, table: str) -> Path:
    return Path(config.data.path) / "vocabularies" / f"{table}.parquet"


def replicated_tables(layout: InputLayout) -> ReplicatedTables:
    """As the network makes them, for where a table lies in them."""
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
    """out[i] = row rows[i] of the stored table, where that is not -1; the table is read block by block."""
    wanted = np.flatnonzero(rows >= 0)
    order = wanted[np.argsort(rows[wanted], kind="stable")]
    sorted_rows = rows[order] + place.first
    for first, values in stored.rows(place.tensor):
        begin, end = np.searchsorted(sorted_rows, [first, first + len(values)])
        if begin < end:
            taken = torch.from_numpy(sorted_rows[begin:end] - first)
            out[torch.from_numpy(order[begin:end])] = values[taken, column : column + out.shape[1]].to(out)


def _some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:12]) or "none"
