"""How what stands in a table's columns becomes its rows.

By default a column holds rows already. Otherwise it holds the keys of the outside world, whole numbers or texts, and the table
says which row each of them has: by a vocabulary that was fitted on the training part, or by a hash (home_dist/ids).
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from home_dist.ids.keys import KeyType
from home_dist.ids.rows import HashRows, RowsOf, VocabularyRows
from home_dist.ids.vocabulary import read_vocabulary
from home_dist.schema.base import Seed, Spec


class VocabularyValues(Spec):
    """`file`, beside the schema, holds columns `value` and `row`. Values that are not in it are out of vocabulary."""

    kind: Literal["vocabulary"] = "vocabulary"
    type: KeyType
    file: str
    unknown_rows: int = Field(default=0, ge=0)
    """Values out of vocabulary are spread by hash over rows 1 to unknown_rows; with 0 they share row 0 with missing ones."""
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Of the file: a run goes on only with the vocabulary that it began with."""


class HashValues(Spec):
    """No state: any value has a row, and different ones may share it. The hash is described in home_dist/ids/hashing.py."""

    kind: Literal["hash"] = "hash"
    type: KeyType
    seed: Seed = 0


TableValues = Annotated[VocabularyValues | HashValues, Field(discriminator="kind")]


def open_values(table: str, values: VocabularyValues | HashValues, rows: int, folder: Path) -> RowsOf:
    """rows: of the table; folder: that of the schema. Raises DataError for a vocabulary that is not what it should be."""
    if isinstance(values, HashValues):
        return HashRows(values.type, values.seed, rows)
    first = values.unknown_rows + 1
    vocabulary = read_vocabulary(folder / values.file, table, values.type, first, rows, values.sha256)
    return VocabularyRows(values.type, values.unknown_rows, vocabulary.keys, vocabulary.rows)
