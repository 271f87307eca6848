"""A schema before it is fitted: what the columns are, and how to fit values that depend on the training part."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from home_dist.config.toml_file import read_model
from home_dist.errors import ConfigError, problem_lines
from home_dist.ids.keys import KeyType
from home_dist.prepare.boundaries import Buckets
from home_dist.prepare.label_values import Thresholds, check_thresholds
from home_dist.schema import (
    DenseFeature,
    Feature,
    IdFeature,
    PretrainedFeature,
    Schema,
    SequenceSpec,
    StatisticFeature,
    TableSpec,
    TaskSpec,
)
from home_dist.schema.base import Name, Spec
from home_dist.schema.values import HashValues

Count = Annotated[int, Field(ge=1)]
_MOST_OF_A_NAME = 200  # characters of a table's name, which is also its vocabulary's file name


class DraftVocabulary(Spec):
    """A vocabulary fitted on all values in the table's columns, lists and histories included."""

    kind: Literal["vocabulary"] = "vocabulary"
    type: KeyType
    """Of the keys."""
    min_count: Count = 2
    """Values seen less often in the training part are out of vocabulary."""
    max_rows: int | None = Field(default=None, ge=2)
    """Upper bound of the table's rows; beyond it the rarest values are left out."""
    unknown_rows: int = Field(default=0, ge=0)
    """Number of rows over which values out of vocabulary are spread; with 0 they share row 0 with missing ones."""


class DraftTable(Spec):
    name: Name
    """Of the table."""
    rows: Count | None = None
    """Number of rows, for a table whose columns hold rows or hashes; a vocabulary's follow from its values."""
    values: Annotated[DraftVocabulary | HashValues, Field(discriminator="kind")] | None = None
    """How the columns' values become rows; without it the columns hold rows."""


class DraftStatistic(Spec):
    """A number whose buckets, mean and deviation are fitted."""

    kind: Literal["statistic"] = "statistic"
    name: Name
    """Of the feature."""
    column: str
    """Column of the Parquet files."""
    buckets: Buckets = Buckets()
    """How boundaries are fitted."""
    boundaries: tuple[float, ...] | None = None
    """Used in place of fitted ones."""


class DraftDense(Spec):
    """A number, or a list of numbers, whose mean and deviation are fitted."""

    kind: Literal["dense"] = "dense"
    name: Name
    """Of the feature."""
    column: str
    """Column of the Parquet files."""
    width: Count = 1
    """Numbers per row: 1, or the length of the lists."""
    standardise: bool = True
    """Whether mean and deviation are fitted; otherwise numbers are read as they are."""


class DraftTask(TaskSpec):
    """A task whose base rate or `values` are fitted unless they are given."""

    thresholds: Thresholds | None = None
    """For kind ordinal: how many thresholds to fit, by default 32; or the thresholds."""
    duration_groups: Count | None = None
    """For kind duration_quantile: into how many groups durations are cut, by default 30."""

    @model_validator(mode="after")
    def _of_numbers(self) -> "DraftTask":
        for key in ("thresholds", "duration_groups"):
            if getattr(self, key) is not None and self.kind in ("binary", "multiclass"):
                raise ValueError(f"task {self.name!r}: {key} is for labels that are numbers, not for kind {self.kind}")
        check_thresholds(f"task {self.name!r}", self.thresholds)
        return self


DraftFeature = Annotated[IdFeature | PretrainedFeature | DraftStatistic | DraftDense, Field(discriminator="kind")]


class Draft(Spec):
    group_column: str | None = None
    """Column of keys by which GAUC groups samples, normally the user."""
    time_column: str | None = None
    """Column of the row's time, in ms since 1970."""
    table: tuple[DraftTable, ...] = ()
    """The embedding tables."""
    feature: tuple[DraftFeature, ...] = Field(min_length=1)
    """What a model reads of a row."""
    sequence: tuple[SequenceSpec, ...] = ()
    """User histories."""
    task: tuple[DraftTask, ...] = Field(min_length=1)
    """What is predicted."""


def load_draft(path: Path) -> Draft:
    """Raises ConfigError, one line per problem."""
    draft = read_model(path, Draft, "Give a TOML file that says what the columns are; docs/howto/schema.md shows one.")
    for table in draft.table:
        fitted = isinstance(table.values, DraftVocabulary)
        if fitted == (table.rows is not None):
            problem = "rows follow from its vocabulary; leave them out" if fitted else "rows are missing"
            raise ConfigError(f"{path}: table {table.name!r}: {problem}")
    _check_names(draft, path)
    return draft


def _check_names(draft: Draft, path: Path) -> None:
    """Builds the schema with placeholders for fitted numbers, to find wrong names before any data is read."""
    try:
        tables = tuple(TableSpec(name=t.name, rows=t.rows or 2) for t in draft.table)
        Schema(table=tables, feature=tuple(map(_unfitted, draft.feature)), sequence=draft.sequence, task=draft.task)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: {line}" for line in problem_lines(error))) from None
    for table in draft.table:
        if len(table.name) > _MOST_OF_A_NAME:
            raise ConfigError(f"{path}: table {table.name[:40]}...: its name is longer than {_MOST_OF_A_NAME} characters")


def _unfitted(feature: IdFeature | PretrainedFeature | DraftStatistic | DraftDense) -> Feature:
    if isinstance(feature, DraftStatistic):
        return StatisticFeature(name=feature.name, column=feature.column, boundaries=feature.boundaries or ())
    if isinstance(feature, DraftDense):
        return DenseFeature(name=feature.name, column=feature.column, width=feature.width)
    return feature
