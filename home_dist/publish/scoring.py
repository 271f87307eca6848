"""A version as a model that predicts, from the published files alone: the scoring model of an export, filled with its rows."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from home_dist.config import RunConfig, load_config
from home_dist.data.matching_rows import RunSide
from home_dist.export.loaded import LoadedModel
from home_dist.export.managed_rows import StoredRows, with_managed_rows
from home_dist.export.program import Program
from home_dist.export.scorer import Scorer
from home_dist.publish.folder import VersionsFolder
from home_dist.publish.manifest import ADVICE, Manifest, PublishError
from home_dist.publish.reading import PublishedVersion, VersionRows, fetch_meaning, read_version
from home_dist.schema import InputLayout, Schema, build_layout, load_schema
from home_dist.training.stored_tables import all_tables, replicated_tables, replicated_weight

_HEAD = "head."


@dataclass(frozen=True)
class VersionWeights:
    """Weights (export/scorer.py) of a published version."""

    shown: str
    config: RunConfig
    schema: Schema
    layout: InputLayout
    found: PublishedVersion
    averaged: bool = False
    """A version holds one set of parameters: the averages, where the run uses them."""

    def table_shape(self, table: str) -> tuple[int, int]:
        published = self.found.tables[table].table
        return published.rows, published.dim

    def rows(self, table: str) -> Iterator[torch.Tensor]:
        yield torch.from_numpy(self.found.tables[table].rows(slice(None)))

    def head_names(self) -> set[str]:
        return {name.removeprefix(_HEAD) for name in (*self.found.dense, *self._replicated)}

    def head_tensor(self, name: str) -> torch.Tensor:
        dense = self.found.dense.get(_HEAD + name)
        return self._replicated[_HEAD + name] if dense is None else dense

    @cached_property
    def _replicated(self) -> dict[str, torch.Tensor]:
        """The head's weights that hold replicated tables, whose rows a version has by table."""
        small = replicated_tables(self.layout)
        weights = {key: torch.empty_like(weight) for key, weight in small.weights.items()}
        for table in all_tables(self.layout).values():
            if table.replicated:
                key, first = small.place(table.name)
                weights[key][first : first + table.rows] = next(self.rows(table.name))
        return {replicated_weight(key): weight for key, weight in weights.items()}


@dataclass(frozen=True)
class VersionModel(LoadedModel):
    """A version with `predict`."""

    manifest: Manifest
    copies: tempfile.TemporaryDirectory[str]
    """Of remote files, kept as long as the model is."""


def open_version(place: str, version: str | None = None) -> VersionModel:
    """A version as a model; by default the current one. All tables are held in memory, as fp32, and while they are read also as
    they are stored. A class of the user's own must be importable. Raises PublishError, which names the file and what is wrong
    with it; ConfigError, StoreError."""
    folder = VersionsFolder(place)
    found = read_version(place, version)
    copies = tempfile.TemporaryDirectory(prefix="home-dist-")
    meaning = fetch_meaning(folder, found.chain[0], Path(copies.name))
    config = load_config(meaning / "config.toml", [f"data.path={meaning}", f"data.schema={meaning / 'schema.toml'}"])
    config = config.model_copy(update={"train": config.train.model_copy(update={"ema": None})})
    schema = load_schema(config.schema_path())
    layout = build_layout(schema, config)
    shown = folder.shown(found.manifest.version)
    _refuse_other_tables(layout, found, shown)
    weights = VersionWeights(shown, config, schema, layout, found)
    scorer = Scorer(weights)
    with_rows = with_managed_rows(layout, lambda name: _managed(found.tables[name]))
    about = {"predictions": found.manifest.predictions, "step": str(found.manifest.step), "tasks": scorer.tasks}
    program = Program(scorer, with_rows, scorer.names, about, RunSide(config, schema, {}))
    return VersionModel(program, Path(meaning).parent, found.manifest.step, found.manifest, copies)


def _managed(rows: VersionRows) -> StoredRows:
    ids, slots = rows.ids
    return StoredRows.of(rows.table.rows, np.asarray(ids, dtype=np.int64), slots)


def _refuse_other_tables(layout: InputLayout, found: PublishedVersion, shown: str) -> None:
    wanted = {t.name: (t.rows, t.dim) for t in all_tables(layout).values()}
    there = {name: (t.rows, t.dim) for name, t in found.manifest.tables.items()}
    if wanted != there:
        names = sorted(n for n in wanted.keys() | there.keys() if wanted.get(n) != there.get(n))
        raise PublishError(f"{shown}: its configuration makes other tables than it holds: {', '.join(names[:5])}. {ADVICE}")
