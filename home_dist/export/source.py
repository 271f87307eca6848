"""A run's checkpoint as exports read it: its tables by name, wherever they are stored, and the dense part."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from home_dist.config import RunConfig
from home_dist.config.stopping import averages_wanted
from home_dist.data.side_files import with_local_schema
from home_dist.errors import ConfigError
from home_dist.export.meaning import ModelMeaning
from home_dist.files.whole import whole_folder
from home_dist.layers.averages import average_name
from home_dist.schema import InputLayout, Schema, build_layout
from home_dist.schema.meaning import fingerprint
from home_dist.training.checkpoint.of_run import find
from home_dist.training.checkpoint.pieces import Stored
from home_dist.training.checkpoint.reading import open_stored
from home_dist.training.checkpoint.state import Record
from home_dist.training.run_folder import RunFolder
from home_dist.training.stored_tables import Place, table_places

_REPLICATED = "dense/head.features.replicated."
_AVERAGES = "dense/head.averages."


@dataclass(frozen=True)
class Source:
    checkpoint: Path
    given: RunConfig
    """As the run's folder holds it."""
    config: RunConfig
    """With data.schema on this machine."""
    whole: Schema
    """Of the run's data."""
    schema: Schema
    """With the tasks that the run trains alone."""
    layout: InputLayout
    stored: Stored
    record: Record
    places: dict[str, Place]

    averaged: bool
    """Whether dense parameters are to be their averages (`train.ema`)."""

    @staticmethod
    def open(path: Path, averaged: bool | None = None) -> "Source":
        """path: a checkpoint, a run.dir or RUN/best. averaged: export the averages of dense parameters; by default as
        `train.ema` says. Raises CheckpointError or ConfigError."""
        checkpoint = find(path)
        given, whole = RunFolder(checkpoint.parent.parent).open()
        config = with_local_schema(given)
        schema = whole.only(config.data.tasks) if config.data.tasks else whole
        layout = build_layout(schema, config)
        stored, record = open_stored(checkpoint)
        record.refuse_other_meaning(checkpoint, fingerprint(whole))
        places = dict(table_places(layout, stored))
        wanted = averages_wanted(config, averaged)
        return Source(checkpoint, given, config, whole, schema, layout, stored, record, places, wanted)

    @property
    def meaning(self) -> ModelMeaning:
        recorded = RunFolder(self.checkpoint.parent.parent).recorded_vocabularies()
        parts = self.given, self.config, self.record.config, self.whole, self.schema, set(self.places), recorded
        return ModelMeaning(str(self.checkpoint), *parts)

    def table_shape(self, table: str) -> tuple[int, int]:
        place = self.places[table]
        return place.rows, self.stored.shape(place.tensor)[1]

    def rows(self, table: str) -> Iterator[torch.Tensor]:
        """A table's rows in order, as blocks (n, dim)."""
        place = self.places[table]
        if place.rows == self.stored.shape(place.tensor)[0]:
            yield from (values for _, values in self.stored.rows(place.tensor))
        else:
            yield self.stored.box(place.tensor, (place.first, 0), self.table_shape(table))

    def rows_at(self, table: str, rows: NDArray[np.int64]) -> torch.Tensor:
        """(n, dim) rows (n,) of a table, ascending. Blocks of the checkpoint that hold none of them are not read."""
        place = self.places[table]
        wanted, found = rows + place.first, []
        for first, end in self.stored.blocks(place.tensor):
            here = wanted[np.searchsorted(wanted, first) : np.searchsorted(wanted, end)]
            if len(here):
                block = self.stored.box(place.tensor, (first, 0), (end - first, self.table_shape(table)[1]))
                found.append(block[torch.from_numpy(here - first)])
        return torch.cat([torch.zeros(0, self.table_shape(table)[1], dtype=self.stored.dtype(place.tensor)), *found])

    @property
    def shown(self) -> str:
        return str(self.checkpoint)

    def head_names(self) -> set[str]:
        return {n.removeprefix("dense/head.") for n in self.stored.tensors if n.startswith("dense/head.")}

    def head_tensor(self, name: str) -> torch.Tensor:
        return self.stored.whole(f"dense/head.{name}")

    def dense(self) -> dict[str, str]:
        """By name of each parameter and statistic outside of tables: the tensor that serves as it (served_tensors)."""
        return served_tensors(self.stored.tensors, self.averaged)

    def metadata(self) -> dict[str, str]:
        versions = self.record.versions
        told = {"checkpoint": self.checkpoint.name, "step": str(self.record.state.step), "home_dist": versions["home_dist"]}
        return told | {"meaning": fingerprint(self.schema)}


def served_tensors(names: Collection[str], averaged: bool) -> dict[str, str]:
    """By name of each parameter and statistic outside of tables, as checkpoints name them: itself, or its average where
    averages are wanted and there is one."""
    dense = [n for n in names if n.startswith("dense/") and not n.startswith((_REPLICATED, _AVERAGES))]
    average = {n: f"{_AVERAGES}{average_name(n.removeprefix('dense/head.'))}" for n in dense} if averaged else {}
    return {n: a if (a := average.get(n, n)) in names else n for n in dense}


def written_whole(out: Path, write: Callable[[Path], None]) -> None:
    """Writes a folder that appears only when complete. Raises ConfigError if something is there."""
    with whole_folder(out, ConfigError) as folder:
        write(folder)
