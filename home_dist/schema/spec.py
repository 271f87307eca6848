"""The schema of a prepared data set: `schema.toml`, beside the Parquet files.

A pipeline writes it; a run reads it. It states facts about the data (columns, table sizes, fitted boundaries). Choices about
the model (widths, sharding, encoders) are in the run's configuration.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

import tomli_w
from pydantic import Field, field_validator, model_validator

from home_dist.config.toml_file import read_model
from home_dist.files.whole import write_whole
from home_dist.ids.keys import KeyType
from home_dist.schema.base import Name, Spec
from home_dist.schema.label_values import Deviation, LabelValues
from home_dist.schema.values import HashValues, Origin, TableValues

Pooling = Literal["none", "sum", "mean", "weighted"]
LabelKind = Literal["binary", "regression", "duration_quantile", "weighted_logistic", "ordinal", "multiclass"]


class TableSpec(Spec):
    """An embedding table. Row 0 stands for "missing or out of vocabulary"."""

    name: Name
    """Of the table; features, sequences and `[embedding.tables.NAME]` of a run name it."""
    rows: int = Field(ge=1)
    """Valid ids are 0 .. rows - 1."""
    values: TableValues | None = None
    """How the columns' values become rows: by a vocabulary or a hash; by default the columns hold rows."""
    origin: Origin | None = None
    """For columns that hold rows: the vocabulary that these are of."""
    means: str | None = None
    """For columns that hold rows without a vocabulary: what a row stands for, as the data's maker says it
    (schema/meaning.py)."""

    @model_validator(mode="after")
    def _room(self) -> "TableSpec":
        if self.values is not None and self.origin is not None:
            raise ValueError(f"table {self.name!r}: values are for columns of keys, an origin for columns of rows; give one")
        if self.origin is not None and self.origin.keys >= self.rows:
            raise ValueError(f"table {self.name!r}: its origin has {self.origin.keys:,} keys, but it has {self.rows:,} rows")
        if isinstance(self.values, HashValues) and self.rows < 2:
            raise ValueError(
                f"table {self.name!r}: rows must be at least 2, as row 0 is for missing values and none is hashed to it"
            )
        return self


class IdFeature(Spec):
    """A categorical column, of one id or a list of ids per sample. Its table says which row an id has."""

    kind: Literal["id"] = "id"
    name: Name
    """Of the feature."""
    column: str
    """Column of the Parquet files."""
    table: Name
    """Table that its ids are looked up in. Features may share one."""
    pooling: Pooling = "none"
    """"none" for a column of one id, "sum", "mean" or "weighted" (the sum of vectors times weights) for a column of lists."""
    weights: str | None = None
    """With "weighted": column of lists of weights, as long as the lists of ids."""

    @model_validator(mode="after")
    def _weights_fit(self) -> "IdFeature":
        if (self.pooling == "weighted") != (self.weights is not None):
            raise ValueError(f"feature {self.name!r}: pooling 'weighted' and a column of weights go together")
        return self


class StatisticFeature(Spec):
    """A number per sample that a model reads in two forms: looked up by bucket, and standardised.

    Null means "unknown". Bucket 0 is for null, bucket i > 0 for boundaries[i - 2] <= value < boundaries[i - 1]; there are
    len(boundaries) + 2 buckets. Standardised: (value - mean) / std, and 0 for null.
    """

    kind: Literal["statistic"] = "statistic"
    name: Name
    """Of the feature."""
    column: str
    """Column of the Parquet files."""
    boundaries: tuple[float, ...]
    """Of the buckets, strictly increasing."""
    mean: float = 0.0
    """Mean over the training part."""
    std: Deviation = 1.0
    """Standard deviation over the training part."""
    means: str | None = None
    """What is counted or measured, and how, as the data's maker says it (schema/meaning.py)."""

    @field_validator("boundaries")
    @classmethod
    def _strictly_increasing(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(not a < b for a, b in zip(value, value[1:], strict=False)):
            raise ValueError("boundaries must increase strictly")
        return value

    @property
    def buckets(self) -> int:
        return len(self.boundaries) + 2

    def values_of(self, bucket: int) -> tuple[float, float] | None:
        """(low, high) of a bucket, which holds low <= value < high; None for bucket 0, which holds missing values."""
        if not 0 <= bucket < self.buckets:
            raise IndexError(bucket)
        edges = (-math.inf, *self.boundaries, math.inf)
        return None if bucket == 0 else (edges[bucket - 1], edges[bucket])


class DenseFeature(Spec):
    """A number (width 1) or a list of `width` numbers per sample, read as (value - mean) / std. Null and NaN are refused.

    mean and std are one number for all places of the list, or one per place.
    """

    kind: Literal["dense"] = "dense"
    name: Name
    """Of the feature."""
    column: str
    """Column of the Parquet files."""
    width: int = Field(default=1, ge=1)
    """Numbers per row: 1, or the length of the lists."""
    mean: float | tuple[float, ...] = 0.0
    """Mean over the training part: one, or one per place."""
    std: Deviation | tuple[Deviation, ...] = 1.0
    """Standard deviation over the training part: one, or one per place."""

    @model_validator(mode="after")
    def _one_per_place(self) -> "DenseFeature":
        for key, value in (("mean", self.mean), ("std", self.std)):
            if isinstance(value, tuple) and len(value) != self.width:
                raise ValueError(f"feature {self.name!r}: {key} has {len(value)} numbers, but width is {self.width}")
        return self


class PretrainedFeature(Spec):
    """A vector per sample that is not trained; a model projects it. Null means missing.

    Either the column holds lists of `width` numbers; or it holds ids, and `frozen` is a folder beside the schema with a table
    of vectors by id (home_dist/schema/frozen.py). Vectors of ids that the table lacks are missing.
    """

    kind: Literal["pretrained"] = "pretrained"
    name: Name
    """Of the feature."""
    column: str
    """Column of the Parquet files."""
    width: int = Field(ge=1)
    """Length of the vectors."""
    frozen: str | None = None
    """Folder beside the schema with a table of vectors by id. Without it, the column holds the vectors."""
    type: KeyType = "integer"
    """Type of the ids, with `frozen`."""


Feature = Annotated[IdFeature | StatisticFeature | DenseFeature | PretrainedFeature, Field(discriminator="kind")]


class EventField(Spec):
    """One column of a history: a list of ids per sample, oldest event first."""

    column: str
    """Column of lists, one id per event, oldest first."""
    table: Name
    """Table that the ids are looked up in."""
    target: Name | None = None
    """The impression's id feature with which this field is compared; it must use the same table."""


class SequenceSpec(Spec):
    """A user history. In a sample, the lists of all its columns have the same length."""

    name: Name
    """Of the sequence; `[[sequence]]` of a run names it."""
    events: tuple[EventField, ...] = Field(min_length=1)
    means: str | None = None
    """Which events it holds, as the data's maker says it (schema/meaning.py)."""


class TaskSpec(Spec):
    """A task: its label's column and, optionally, the column of its label weights (0: label unknown)."""

    name: Name
    """Of the task."""
    group: Name
    """HoME's group of tasks that this one belongs to."""
    column: str
    """Column of the label."""
    kind: LabelKind = "binary"
    """What the label is, and how a run learns it unless its `[objective.NAME]` says otherwise (home_dist/objectives)."""
    unit: str | None = None
    """The label's unit, such as "s"."""
    duration: str | None = None
    """Column of the item's duration, above 0 and in the label's unit."""
    classes: int | None = Field(default=None, ge=2)
    """Number of classes; labels are 0 .. classes - 1."""
    weight_column: str | None = None
    """Column of the label's weight, at least 0; where it is 0 the label is unknown. By default every label weighs 1."""
    base_rate: float | None = Field(default=None, gt=0, lt=1)
    """Share of positives of a binary task in the training part; the tower's bias starts at its log-odds."""
    values: LabelValues | None = None
    """Facts about a label that is not binary, fitted on the training part."""
    means: str | None = None
    """What makes a row positive, or what is measured, as the data's maker says it (schema/meaning.py)."""

    @model_validator(mode="after")
    def _kind_has_its_facts(self) -> "TaskSpec":
        if self.kind == "multiclass" and self.classes is None:
            raise ValueError(f"task {self.name!r}: kind multiclass needs `classes`, the number of classes")
        if self.kind == "duration_quantile" and self.duration is None:
            raise ValueError(f"task {self.name!r}: kind duration_quantile needs `duration`, the column of the item's duration")
        if self.kind != "binary" and self.base_rate is not None:
            raise ValueError(f"task {self.name!r}: base_rate is for binary tasks, not for {self.kind}")
        if self.values is not None and self.values.shares and len(self.values.shares) != self.classes:
            raise ValueError(f"task {self.name!r}: values.shares needs one number for each of {self.classes or 'the'} classes")
        return self


class Schema(Spec):
    version: Literal[1] = 1
    """Of this format."""
    group_column: str | None = None
    """Column of keys by which GAUC groups samples, normally the user."""
    time_column: str | None = None
    """Column of the row's time, in ms since 1970. `sweep --rolling` and prepared days need it."""
    table: tuple[TableSpec, ...] = ()
    """The embedding tables."""
    feature: tuple[Feature, ...] = Field(min_length=1)
    """What a model reads of a row."""
    sequence: tuple[SequenceSpec, ...] = ()
    """User histories."""
    task: tuple[TaskSpec, ...] = Field(min_length=1)
    """What is predicted."""

    @model_validator(mode="after")
    def _consistent(self) -> "Schema":
        for kind, names in (
            ("table", [t.name for t in self.table]),
            ("feature", [f.name for f in self.feature]),
            ("sequence", [s.name for s in self.sequence]),
            ("task", [t.name for t in self.task]),
        ):
            repeated = sorted({n for n in names if names.count(n) > 1})
            if repeated:
                raise ValueError(f"{kind} {repeated[0]!r} is declared twice")
        tables = {t.name for t in self.table}
        ids = {f.name: f for f in self.feature if isinstance(f, IdFeature)}
        users: list[tuple[str, str]] = [(f"feature {f.name!r}", f.table) for f in ids.values()]
        for sequence in self.sequence:
            for event in sequence.events:
                where = f"sequence {sequence.name!r}, column {event.column!r}"
                users.append((where, event.table))
                if event.target is None:
                    continue
                if event.target not in ids:
                    raise ValueError(f"{where}: target {event.target!r} is no id feature; there are {_some(ids)}")
                if ids[event.target].table != event.table:
                    raise ValueError(
                        f"{where}: looks up table {event.table!r}, its target {event.target!r} looks up "
                        f"{ids[event.target].table!r}; both must use one table"
                    )
        for where, table in users:
            if table not in tables:
                raise ValueError(f"{where}: table {table!r} is not declared; there are {_some(tables)}")
        return self

    @property
    def groups(self) -> tuple[str, ...]:
        """Task groups, in the order of their first tasks."""
        return tuple(dict.fromkeys(t.group for t in self.task))

    def only(self, tasks: Iterable[str]) -> "Schema":
        """The schema with only these tasks, in the schema's order."""
        chosen = set(tasks)
        return self.model_copy(update={"task": tuple(t for t in self.task if t.name in chosen)})

    def in_groups(self, groups: Mapping[str, str]) -> "Schema":
        """The schema with other groups of some tasks. groups: task -> group; names of other tasks are passed over."""
        tasks = (t.model_copy(update={"group": groups.get(t.name, t.group)}) for t in self.task)
        return self.model_copy(update={"task": tuple(tasks)})

    def table_rows(self) -> dict[str, int]:
        return {t.name: t.rows for t in self.table}


def _some(names: Iterable[str], most: int = 12) -> str:
    listed = sorted(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "") or "none"


def load_schema(path: str | Path) -> Schema:
    """Reads a schema.toml. Raises ConfigError, which names the file and the entry."""
    absent = (
        "A data folder needs a schema.toml that says what its columns mean; the pipelines write one, or set data.schema to one "
        "of your own."
    )
    return read_model(Path(path), Schema, absent)


def save_schema(schema: Schema, path: str | Path) -> None:
    write_whole(Path(path), tomli_w.dumps(schema.model_dump(exclude_none=True, mode="json")))
