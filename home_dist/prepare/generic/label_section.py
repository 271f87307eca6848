"""A label of a described log: yes or no, a number, or a class."""

from typing import Annotated, Literal

from pydantic import Field, StrictInt, StrictStr, model_validator

from home_dist.config.section import Count, Section
from home_dist.prepare.generic.log_sections import Name
from home_dist.prepare.label_values import Thresholds, check_thresholds
from home_dist.schema.spec import LabelKind

Factor = Annotated[float, Field(gt=0, allow_inf_nan=False)]
MOST_CLASSES = 32_767

_OF_NUMBERS = ("unit", "scale", "cap", "duration", "duration_scale", "thresholds", "duration_groups")
_FOR: dict[str, str] = {
    **dict.fromkeys(_OF_NUMBERS, "labels that are numbers"),
    "at_least": "binary labels",
    "classes": "kind multiclass",
    "bad": "labels that are not binary",
}


class LabelSection(Section):
    """A task. Of a binary one, a row is positive where the column is true or 1; with at_least, where it is at least that
    value. Where the column is null, the label is unknown."""

    name: Name
    """Of the task."""
    group: Name
    """HoME's group of tasks that this one belongs to."""
    column: str
    """Column of the log or of a side table."""
    kind: LabelKind = "binary"
    """Yes or no ("binary"), a class ("multiclass"), or a number (all others), which is learned as the kind says unless a run's
    `[objective.NAME]` says otherwise."""
    at_least: float | None = None
    """For kind binary: the row is positive from this value on."""
    known: str | None = None
    """A column: where it is null or not above 0, the label is unknown."""
    unit: str | None = None
    """Of the label, such as "s"."""
    scale: Factor = 1.0
    """Factor from the column's numbers to the unit: 0.001 for a column of ms and a label in s."""
    cap: Factor | None = None
    """In the unit: larger values are cut to it."""
    duration: str | None = None
    """A column of the log or of a side table: the duration of what was shown."""
    duration_scale: Factor | None = None
    """Factor from its numbers to the unit; by default `scale`."""
    classes: StrictInt | tuple[StrictInt, ...] | tuple[StrictStr, ...] | None = None
    """Number of classes, of a column that holds 0 and up; or the column's values, which become 0, 1, ... in this order."""
    thresholds: Thresholds | None = None
    """For kind ordinal: how many thresholds to fit, by default 32; or the thresholds, in the unit."""
    duration_groups: Count | None = None
    """For kind duration_quantile: into how many groups durations are cut, by default 30."""
    bad: Literal["fail", "unknown"] = "fail"
    """Rows with a value that cannot be a label, or without a duration above 0: end the preparation, or are unknown."""

    @property
    def is_number(self) -> bool:
        return self.kind not in ("binary", "multiclass")

    @property
    def duration_factor(self) -> float:
        return self.scale if self.duration_scale is None else self.duration_scale

    @property
    def class_values(self) -> tuple[int, ...] | tuple[str, ...]:
        """The column's values, in the order of classes."""
        return tuple(range(self.classes)) if isinstance(self.classes, int) else self.classes or ()

    @model_validator(mode="after")
    def _keys_fit_the_kind(self) -> "LabelSection":
        where = f"label {self.name!r}"
        fitting = {"binary": ("at_least",), "multiclass": ("classes", "bad")}.get(self.kind, (*_OF_NUMBERS, "bad"))
        for key in _FOR:
            if getattr(self, key) != LabelSection.model_fields[key].default and key not in fitting:
                raise ValueError(f"{where}: {key} is for {_FOR[key]}, not for kind {self.kind}; leave it out")
        if self.kind == "multiclass":
            self._check_classes(where)
        if self.kind == "duration_quantile" and self.duration is None:
            raise ValueError(f"{where}: kind duration_quantile needs `duration`, the column of the item's duration")
        for key in ("duration_scale", "duration_groups"):
            if getattr(self, key) is not None and self.duration is None:
                raise ValueError(f"{where}: {key} needs `duration`, the column of the item's duration")
        check_thresholds(where, self.thresholds)
        return self

    def _check_classes(self, where: str) -> None:
        if self.classes is None:
            raise ValueError(f"{where}: kind multiclass needs `classes`: their number, or the column's values in order")
        values = self.class_values
        if not 2 <= len(values) <= MOST_CLASSES:
            raise ValueError(f"{where}: classes must be from 2 to {MOST_CLASSES:,}, not {len(values)}")
        if len(set(values)) < len(values):
            repeated = next(v for v in values if values.count(v) > 1)
            raise ValueError(f"{where}: classes: {repeated!r} stands twice")
