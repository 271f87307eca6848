"""[format] of a described log, and of a side table: how its files are written."""

import codecs
from typing import Literal

from pydantic import Field, field_validator, model_validator

from home_dist.config.section import Section
from home_dist.errors import ConfigError

Kind = Literal["parquet", "csv", "json", "orc"]
TABLES = ("delta", "iceberg")
_OF_SUFFIX: dict[str, Kind] = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".txt": "csv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".orc": "orc",
}
_PACKED = (".gz", ".bz2", ".zst", ".lz4")
_OF_TEXT = ("delimiter", "quote", "names", "nulls", "decimal", "encoding")


class FormatSection(Section):
    kind: Kind | Literal["delta", "iceberg"] | None = None
    """By default by the file's name: .parquet; .csv, .tsv, .tab, .txt; .jsonl, .ndjson, .json (an object per line); .orc. Texts
    may be packed: .gz, .bz2, .zst, .lz4. A Delta or Iceberg table is named by its folder, or by a metadata file of Iceberg. It
    needs the extra `delta` or `iceberg`."""
    version: int | None = Field(default=None, ge=0)
    """Of a Delta table; by default its newest."""
    snapshot: int | None = None
    """Of an Iceberg table; by default its current one."""
    catalog: str | None = None
    """Name of an Iceberg catalog in ~/.pyiceberg.yaml; the table is then named as it is there, such as db.clicks."""
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    """Between the values of a line; by default a comma, in .tsv and .tab files a tab."""
    quote: str = Field(default='"', max_length=1)
    """Around values that hold delimiters; empty: none are quoted."""
    names: tuple[str, ...] = ()
    """Columns of files whose first line holds values, not names."""
    nulls: tuple[str, ...] = ()
    """Texts that stand for a missing value, beside \\\\N, and among numbers NA, NULL, nan and the like."""
    decimal: Literal[".", ","] = "."
    """Sign before the decimals of a number in a text file."""
    encoding: str = "utf-8"
    """Of a text file."""

    @field_validator("encoding")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            return codecs.lookup(name).name
        except LookupError:
            raise ValueError(f"{name!r} is no encoding that Python knows, such as utf-8, latin-1 or utf-16") from None

    @model_validator(mode="after")
    def _of_its_kind(self) -> "FormatSection":
        for key, kind in (("version", "delta"), ("snapshot", "iceberg"), ("catalog", "iceberg")):
            if getattr(self, key) is not None and self.kind != kind:
                raise ValueError(f'{key} is of kind = "{kind}" alone: leave it out')
        return self

    @property
    def is_table(self) -> bool:
        """Whether files are told by a table's log, not by a pattern."""
        return self.kind in TABLES

    def kind_of(self, file: str) -> Kind:
        """Raises ConfigError for a file whose name tells none, and for settings of texts where it is none."""
        suffixes = _suffixes(file)
        told = self.kind
        given_kind: Kind | None = "parquet" if told == "delta" or told == "iceberg" else told
        kind = given_kind or _OF_SUFFIX.get(next((s for s in reversed(suffixes) if s not in _PACKED), ""))
        if kind is None:
            known = ", ".join(_OF_SUFFIX)
            raise ConfigError(f"{file}: its name tells no format ({known}). Say format = {{ kind = ... }} in the description.")
        given = [key for key in _OF_TEXT if getattr(self, key) != type(self).model_fields[key].default]
        if kind != "csv" and given:
            raise ConfigError(f"format: {given[0]} is of csv alone, and {file} is {kind}: leave it out.")
        return kind

    def delimiter_of(self, file: str) -> str:
        if self.delimiter is not None:
            return self.delimiter
        return "\t" if {".tsv", ".tab"} & set(_suffixes(file)) else ","


def _suffixes(file: str) -> list[str]:
    name = file.partition("?")[0].rpartition("/")[2]
    return [f".{part}" for part in name.lower().split(".")[1:]]
