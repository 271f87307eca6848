"""[split] of a description: which rows train, which choose the model, which test it."""

from datetime import date
from typing import Annotated, Literal

from pydantic import Field, model_validator

from home_dist.config.section import Count, Section

Share = Annotated[float, Field(ge=0, lt=1)]
Values = tuple[str | bool | int | date, ...]


class DaySplit(Section):
    """By days of the local calendar."""

    by: Literal["days"] = "days"
    train_days: Count
    """Days before those of validation. Earlier days count in the past and in histories alone."""
    validation_days: Count
    """Days between those of training and of test."""
    test_days: Count
    """The log's last days, by its local calendar."""


class FileSplit(Section):
    """By whole files, where `order = "files"`."""

    by: Literal["files"]
    train: Count | None = None
    """Files before the validation part; by default all of them."""
    validation: Count
    """Files between those of training and of test."""
    test: Count
    """The log's last files, in the order of their names."""


class RandomSplit(Section):
    """By a hash, which does not depend on how the preparation cuts the log: of the file's name, from the description's folder,
    and of the row's place in the file; or of `key`."""

    by: Literal["random"]
    validation: Share
    """Share of the rows, or of the values of `key`."""
    test: Share
    """Share of the rows, or of the values of `key`."""
    seed: int = 0
    """Of the hash."""
    key: tuple[str, ...] = ()
    """Columns: rows with the same values go to the same part, wherever they stand. Rows that lack one of them go by
    their place."""

    @model_validator(mode="after")
    def _leaves_rows(self) -> "RandomSplit":
        if self.validation + self.test >= 1:
            raise ValueError(f"validation and test take {self.validation + self.test:g} of the rows: leave some for training")
        return self


class ColumnSplit(Section):
    """By the values of a column, as a data set that is already split has it. Rows with other values are in no part."""

    by: Literal["column"]
    column: str
    """A column of the log."""
    train: Values = Field(min_length=1)
    """Its values in rows that train."""
    validation: Values = ()
    """Its values in rows of the validation part."""
    test: Values = ()
    """Its values in rows of the test part."""

    @model_validator(mode="after")
    def _each_once(self) -> "ColumnSplit":
        given = self.texts
        for value in given:
            if given.count(value) > 1:
                raise ValueError(f"{value!r} is given twice: a row is in one part")
        return self

    @property
    def texts(self) -> list[str]:
        """All values as texts: those of train, then of validation, then of test."""
        return [text_of(value) for value in (*self.train, *self.validation, *self.test)]

    @property
    def parts(self) -> list[int]:
        """Of each of `texts`: position of its part in SPLITS."""
        return [0] * len(self.train) + [1] * len(self.validation) + [2] * len(self.test)


Split = Annotated[DaySplit | FileSplit | RandomSplit | ColumnSplit, Field(discriminator="by")]


def text_of(value: str | bool | int | date) -> str:
    """As Arrow writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
