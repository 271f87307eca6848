"""How the values of a table's columns become rows of the table.

By default a column holds rows already. Otherwise it holds keys, whole numbers or texts, and the table says which row each key
has: by a vocabulary that was fitted on the training part, or by a hash (home_dist/ids).
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from home_dist.ids.keys import KeyType
from home_dist.ids.rows import HashRows, RowsOf, open_rows
from home_dist.ids.vocabulary import VocabularyFile
from home_dist.schema.base import Seed, Sha256, Spec


class VocabularyValues(Spec):
    """A vocabulary. `file`, beside the schema, has columns `value` and `row`. Values that it lacks are out of vocabulary."""

    kind: Literal["vocabulary"] = "vocabulary"
    type: KeyType
    """Of the keys."""
    file: str
    """Parquet file beside the schema."""
    unknown_rows: int = Field(default=0, ge=0)
    """Values out of vocabulary are spread by hash over rows 1 to unknown_rows; with 0 they share row 0 with missing ones."""
    sha256: Sha256 | None = None
    """Of the file: a run can only be resumed with the vocabulary that it began with."""


class HashValues(Spec):
    """A hash, without state: each value has a row, which others may share. home_dist/ids/hashing.py describes the hash."""

    kind: Literal["hash"] = "hash"
    type: KeyType
    """Of the keys."""
    seed: Seed = 0
    """Of the hash."""


class GrownFrom(Spec):
    """A vocabulary that is the beginning of another one: its keys have the same rows there."""

    sha256: Sha256
    """Of the earlier vocabulary's file."""
    keys: int = Field(ge=0)
    """Number of its keys, which have rows 1 to `keys`."""


class Origin(Spec):
    """The vocabulary by which whoever prepared the data made rows of keys, for a table whose columns hold rows.

    Keys have rows 1 to their number. Runs compare origins, so that a row is never read as another key.
    """

    type: KeyType
    """Of the keys."""
    file: str
    """Beside the schema, with columns `value` and `row`."""
    sha256: Sha256
    """Of the file."""
    keys: int = Field(ge=0)
    """Number of the vocabulary's keys."""
    grown_from: tuple[GrownFrom, ...] = ()
    """Earlier vocabularies to which it added keys, oldest first."""


TableValues = Annotated[VocabularyValues | HashValues, Field(discriminator="kind")]


def open_values(table: str, values: VocabularyValues | HashValues, rows: int, folder: Path) -> RowsOf:
    """rows: of the table; folder: the schema's. Raises DataError for a vocabulary that is missing, damaged or does not fit."""
    if isinstance(values, HashValues):
        return HashRows(values.type, values.seed, rows)
    file = VocabularyFile.open(folder / values.file, table, values.type, values.sha256)
    return open_rows(file, values.unknown_rows + 1, rows, values.unknown_rows)
