"""A schema before it is fitted: what the columns are, and how to fit what depends on the training part."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from home_dist.errors import ConfigError
from home_dist.ids.keys import KeyType
from home_dist.prepare.boundaries import Buckets
from home_dist.schema import IdFeature, PretrainedFeature, SequenceSpec, TaskSpec
from home_dist.schema.base import Name, Spec
from home_dist.schema.values import HashValues
from home_dist.toml_file import read_model

Count = Annotated[int, Field(ge=1)]


class DraftVocabulary(Spec):
    """Of all values in the table's columns, lists and histories included."""

    kind: Literal["vocabulary"] = "vocabulary"
    type: KeyType
    min_count: Count = 2
    """Values seen less often in the training part are out of vocabulary."""
    max_rows: int | None = Field(default=None, ge=2)
    """Bound of the table's rows; the rarest values are left out."""
    unknown_rows: int = Field(default=0, ge=0)
    """Rows that values out of vocabulary are spread over; with 0 they share row 0 with missing ones."""


class DraftTable(Spec):
    name: Name
    rows: Count | None = None
    """Of a table whose columns hold rows, or hashes; a vocabulary's follow from it."""
    values: Annotated[DraftVocabulary | HashValues, Field(discriminator="kind")] | None = None


class DraftStatistic(Spec):
    kind: Literal["statistic"] = "statistic"
    name: Name
    column: str
    buckets: Buckets = Buckets()
    boundaries: tuple[float, ...] | None = None
    """Given ones, in place of fitted ones."""


class DraftDense(Spec):
    kind: Literal["dense"] = "dense"
    name: Name
    column: str
    width: Count = 1
    standardise: bool = True


DraftFeature = Annotated[IdFeature | PretrainedFeature | DraftStatistic | DraftDense, Field(discriminator="kind")]


class Draft(Spec):
    group_column: str | None = None
    time_column: str | None = None
    table: tuple[DraftTable, ...] = ()
    feature: tuple[DraftFeature, ...] = Field(min_length=1)
    sequence: tuple[SequenceSpec, ...] = ()
    task: tuple[TaskSpec, ...] = Field(min_length=1)


def load_draft(path: Path) -> Draft:
    """Raises ConfigError, one line per problem."""
    draft = read_model(path, Draft, "Give a TOML file that says what the columns are; README shows one.")
    for table in draft.table:
        fitted = isinstance(table.values, DraftVocabulary)
        if fitted == (table.rows is not None):
            problem = "rows follow from its vocabulary; leave them out" if fitted else "rows are missing"
            raise ConfigError(f"{path}: table {table.name!r}: {problem}")
    return draft
