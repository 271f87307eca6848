"""Warm start: a new run takes over tables, dense tensors, or both from another run.

Rows of tables are matched by key (matching_rows.py), entries of dense tensors by the names of tasks, groups, experts and
features (matching_entries.py). A statistic or dense feature that was fitted otherwise counts as another feature
(matching_features.py). Rows and entries without a match keep their initial values. The optimizers' state goes the same way
(warm_optimizer.py). The report has a line per table and dense tensor.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torchrec.distributed import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer

from home_dist.axes import axes_of
from home_dist.config import WarmStartSection
from home_dist.data.inputs import Inputs
from home_dist.data.matching_rows import Map, RunSide, Unknown, same_rows
from home_dist.data.side_files import with_local_schema
from home_dist.embeddings.collections import table_shards
from home_dist.errors import ConfigError
from home_dist.experts.share import Share
from home_dist.layers.axis_names import Axes
from home_dist.network import Head
from home_dist.schema import SequenceInput, Table, build_layout
from home_dist.training.checkpoint.contents import pool_shares
from home_dist.training.checkpoint.of_run import find
from home_dist.training.checkpoint.reading import open_stored
from home_dist.training.matching_entries import listed, same_entries
from home_dist.training.matching_features import changed_features, difference, other_histories, other_labels
from home_dist.training.matching_sets import SetMap
from home_dist.training.run_folder import RunFolder
from home_dist.training.stored_tables import all_tables, parts_here, replicated_tables, table_places
from home_dist.training.warm_optimizer import WarmOptimizer, gather_sets


class WarmStart:
    """Takes values over from a checkpoint of another run. Raises CheckpointError or ConfigError."""

    def __init__(self, section: WarmStartSection, inputs: Inputs):
        self.section, self.inputs = section, inputs
        self.checkpoint = find(Path(section.source))
        run = RunFolder(self.checkpoint.parent.parent)
        given, self.schema = run.open()
        self.there = RunSide(given, self.schema, run.recorded_vocabularies())
        self.here = RunSide(inputs.config, inputs.schema, {})
        self.config = with_local_schema(given)
        self.trained = self.schema.only(self.config.data.tasks) if self.config.data.tasks else self.schema
        self.layout = build_layout(self.trained, self.config)
        self.stored, self.record = open_stored(self.checkpoint)
        self.places = dict(table_places(self.layout, self.stored))
        self.tables, self.old_tables = all_tables(inputs.layout), all_tables(self.layout)
        self.changed = changed_features(self.layout, inputs.layout)
        self.other_labels = other_labels(self.schema, inputs.schema)
        self.small = replicated_tables(inputs.layout)
        renamed = (f"{t.name}, another label" if t.name in self.other_labels else t.name for t in inputs.schema.task)
        self.tasks = tuple(renamed), tuple(t.name for t in self.trained.task)
        here = set(self.tables)
        for new, old in section.rename.items():
            if new not in here:
                raise ConfigError(f"checkpoint.warm_start.rename.{new}: no such table in this run; there are: {listed(here)}")
            if old not in self.places:
                raise ConfigError(f"checkpoint.warm_start.rename.{new}: {old!r} is no table of {self.checkpoint}")
        unknown = sorted(set(section.tables or ()) - here)
        if unknown:
            raise ConfigError(
                f"checkpoint.warm_start.tables: {unknown[0]!r} is no table of this run; there are: {listed(here)}"
            )

    @torch.no_grad()
    def fill(self, model: DistributedModelParallel, optimizer: CombinedOptimizer) -> list[str]:
        """Fills, in place, the part of the model and of the optimizers' state on this rank. Returns the report, the same on all
        ranks."""
        lines = [f"warm start from {self.checkpoint}"]
        kinds = self.config.embedding.optimizer, self.inputs.config.embedding.optimizer
        state = WarmOptimizer(model, optimizer, self.stored, self.record.plan, kinds) if self.section.optimizer else None
        anew: set[str] = set()
        untold = dict(self.changed)
        for _, table in sorted(self.tables.items()):
            report, matched = self._table(model, state, table)
            lines.append(f"  table {table.name}: {report}")
            if not matched:
                anew.add(table.name)
            if table.name in untold and report.startswith(untold[table.name]):
                del untold[table.name]
        if state is not None:
            state.set_steps()
        if self.section.dense:
            told = "weights that read it keep their first values"
            lines += [f"  feature {name}: {text}; {told}" for name, text in sorted(untold.items())]
            told = "its tower and gates keep their first values"
            lines += [f"  label {name}: {text}; {told}" for name, text in sorted(self.other_labels.items())]
            histories = sorted(other_histories(self.schema, self.inputs.schema).items())
            lines += [f"  history {name}: {text}; its encoder keeps its first values" for name, text in histories]
        reports = list(self._dense(model, state, anew))
        lines += [f"  dense {name}: {report}" for name, report in reports]
        head = next(m for m in model.modules() if isinstance(m, Head))
        if head.averages is not None and any("first values" in r for n, r in reports if n.startswith("head.averages.")):
            head.averages.updates.zero_()
            lines.append("  averages: begin anew from the values, as not all are there")
        return lines

    def _table(self, model: nn.Module, state: WarmOptimizer | None, table: Table) -> tuple[str, bool]:
        """(line of the report, whether the table's vectors mean the same as in the other run)"""
        if self.section.tables is not None and table.name not in self.section.tables:
            return "not asked for", True
        name = self.section.rename.get(table.name, table.name)
        before = self.old_tables.get(name)
        if before is None:
            return "not there; first values stay", False
        try:
            sets = SetMap.of(table, before, *self.tasks)
            rows, how = self._rows(before, table)
        except Unknown as why:
            return f"{why}; first values stay", False
        for first, column, values in parts_here(model, table, self.small):
            own_rows = rows[first : first + len(values)]
            gather_sets(self.stored, self.places[name], own_rows, sets, column, values)
        state_taken = ""
        if state is not None:
            first = self.small.place(table.name)[1] if table.replicated else 0
            state_taken = state.take_table(before, table, self.places[name], first, rows, sets)
        taken = int((rows >= 0).sum())
        renamed = f" of {name}" if name != table.name else ""
        rest = table.rows - taken
        kept = f"; {rest:,} keep their first values" if rest else ""
        kept += f"; vectors of {sets.lacking} tasks keep their first values" if sets.lacking else ""
        return f"{taken:,} of {table.rows:,} rows{renamed}, {how}{state_taken}{kept}", True

    def _rows(self, before: Table, now: Table) -> tuple[Map, str]:
        old, new = self.layout.statistics.get(before.name), self.inputs.layout.statistics.get(now.name)
        if (old is None) != (new is None):
            raise Unknown(f"its rows are a statistic's buckets {'here' if old is None else 'there'} alone")
        if old is not None and new is not None:
            dense = ({f.name for f in layout.dense} for layout in (self.layout, self.inputs.layout))
            apart = difference(old, new, all(f.name in names for f, names in zip((old, new), dense, strict=True)))
            if apart:
                raise Unknown(apart)
            return np.arange(now.rows), "bucket by bucket"
        if before.managed or now.managed:  # without the map from ids to rows, the rows mean nothing
            raise Unknown("its rows were given to ids as they came, which a warm start does not take over")
        return same_rows(self.there, self.here, before, now)

    def _dense(self, model: DistributedModelParallel, state: WarmOptimizer | None, anew: set[str]) -> Iterator[tuple[str, str]]:
        """(tensor, report) per dense tensor. anew: tables whose vectors do not mean the same as in the other run."""
        tables = {s.table for s in table_shards(model)}
        with torch.random.fork_rng(devices=[]):  # leaves the run's random numbers unchanged
            other_head = Head(self.trained, self.layout, self.config)
        before = axes_of(other_head, self.trained)
        changed = _changed(self.inputs, anew) | self.changed.keys() | {f"value {name}" for name in self.changed}
        others = {name: f"{name}, another label" for name in self.other_labels}
        renamed = tuple(t.model_copy(update={"name": others.get(t.name, t.name)}) for t in self.inputs.schema.task)
        schema = self.inputs.schema.model_copy(update={"task": renamed})
        now = axes_of(next(m for m in model.modules() if isinstance(m, Head)), schema, changed)
        pools = pool_shares(model)
        for name, value in model.state_dict().items():
            if ".replicated." in name or name.startswith("managed."):
                continue
            if name.split(".")[-2:-1] and name.split(".")[-2] in tables:
                continue
            inner = name.removeprefix("head.")
            if not self.section.dense:
                yield name, "not asked for"
            elif f"dense/{name}" not in self.stored.tensors:
                yield name, "not there; first values stay"
            elif inner.startswith("features.encoders.") and not self._same_history(inner.split(".")[2], anew):
                yield name, "its history has other events, columns, tables or targets; first values stay"
            else:
                yield name, self._take(name, value, state, now.get(inner), before.get(inner), pools.get(name))

    def _take(
        self,
        name: str,
        value: torch.Tensor,
        state: WarmOptimizer | None,
        now: Axes | None,
        before: Axes | None,
        share: Share | None,
    ) -> str:
        """share: of a pool of experts; value holds its experts alone."""
        logical, shape = f"dense/{name}", value.shape if share is None else (share.experts, *value.shape[1:])
        try:
            entries = same_entries(shape, self.stored.shape(logical), now, before)
        except Unknown as why:
            return f"{why}; first values stay"
        how = "taken" if entries.same else "taken by name"
        if share is not None:
            entries = entries.within(share.first, share.count)
        entries.fill(value, self.stored.whole(logical))
        state_taken = state.take_dense(name, entries) if state is not None else ""
        return how + state_taken + (f"; first values stay for {listed(entries.lacking)}" if entries.lacking else "")

    def _same_history(self, name: str, anew: set[str]) -> bool:
        old, new = ({s.name: s for s in layout.sequences}.get(name) for layout in (self.layout, self.inputs.layout))
        if name in other_histories(self.schema, self.inputs.schema):
            return False
        return old is not None and new is not None and _fields(old) == _fields(new) and not _tables_of(new) & anew


def _fields(sequence: SequenceInput) -> list[tuple[str, int, str | None]]:
    return [(e.field.column, e.field.table.shared_dim, e.target.key if e.target else None) for e in sequence.fields]


def _tables_of(sequence: SequenceInput) -> set[str]:
    return {e.field.table.name for e in sequence.fields}


def _changed(inputs: Inputs, anew: set[str]) -> set[str]:
    """Features and histories, named as in `axes`, that look up tables of `anew`."""
    features = {i.key for i in inputs.layout.features if i.table.name in anew}
    return features | {f"history {s.name}" for s in inputs.layout.sequences if _tables_of(s) & anew}
