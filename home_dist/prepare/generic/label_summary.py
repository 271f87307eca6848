"""Labels that are not binary, over all partitions: a task per label fits its facts and gathers what the report says of it.

Rows come in the partitions' order, in blocks of BLOCK rows: the result does not depend on how the log was cut.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from home_dist.errors import DataError
from home_dist.files.json_files import read_json, write_json
from home_dist.prepare.engine import Task, Work
from home_dist.prepare.engine.mirror import here, opened
from home_dist.prepare.generic.label_columns import value_column
from home_dist.prepare.generic.label_section import LabelSection
from home_dist.prepare.generic.log_plan import Plan
from home_dist.prepare.generic.names import duration_columns
from home_dist.prepare.generic.partition import ROWS
from home_dist.prepare.generic.state import Base
from home_dist.prepare.key_parts import pieces_of
from home_dist.prepare.label_report import ClassLabel, NumberLabel
from home_dist.prepare.label_values import BLOCK
from home_dist.schema import LabelValues

_SUMMARY = "summary.json"
Summary = dict[str, Any]
"""Of a label: `values`, its facts; `told`, the report's entry; `fitted`, whether the facts are of these rows."""


def summarise(
    plan: Plan, gathered: Sequence[Path], work: Work, rows: int, base: Base | None, anew: Sequence[str]
) -> dict[str, Summary]:
    """By label that is not binary. base: whose facts are taken, but for labels in `anew`. rows: of the log."""
    known = {} if base is None else {t.name: t.values for t in base.schema.task}
    chosen = [x for x in plan.spec.label if x.kind != "binary"]
    tasks = []
    for section in chosen:
        is_fitted = base is None or section.name in anew
        tasks.append(Task(partial(_summarise, plan, section, gathered, known.get(section.name), is_fitted), rows))
    folders = work.run("labels", "labels", tasks) if tasks else []
    return {x.name: read_json(here(f / _SUMMARY), "", DataError) for x, f in zip(chosen, folders, strict=True)}


def values_of(summary: Summary) -> LabelValues | None:
    return None if summary["values"] is None else LabelValues.model_validate(summary["values"])


def _summarise(
    plan: Plan, section: LabelSection, gathered: Sequence[Path], before: LabelValues | None, is_fitted: bool, folder: Path
) -> None:
    """before: the base's facts, which stay if none are fitted."""
    duration = duration_columns(plan.spec.label).get(section.name)
    value, known = value_column(section), f"known_{section.name}"
    columns = ["time", "split", value, known, *([duration] if duration is not None else [])]
    number = NumberLabel(duration is not None) if section.is_number else None
    classes = None if section.is_number else ClassLabel(len(section.class_values))
    for block in pieces_of(_tables([f / ROWS for f in gathered], columns), BLOCK):
        day = plan.clock.days(block.column("time").to_numpy())
        split = block.column("split").to_numpy().astype(np.int64)
        labels, is_known = block.column(value).to_numpy(), block.column(known).to_numpy() > 0
        if number is not None:
            durations = None if duration is None else block.column(duration).to_numpy().astype(np.float64)
            number.add(labels.astype(np.float64), is_known, durations, split, day)
        elif classes is not None:
            classes.add(labels.astype(np.int64), is_known, split, day)
    fitted = None
    if is_fitted and number is not None:
        fitted = number.facts.values(section.thresholds, section.duration_groups)
    elif is_fitted and classes is not None:
        fitted = classes.facts.values()
    values = fitted or before
    name_of = plan.clock.day_name
    told = number.told(values, name_of) if number is not None else {}
    if classes is not None:
        told = classes.told(tuple(map(str, section.class_values)), name_of)
    dumped = None if values is None else values.model_dump(mode="json")
    write_json(folder / _SUMMARY, {"values": dumped, "told": told, "fitted": fitted is not None})


def _tables(paths: Sequence[Path], columns: Sequence[str]) -> Iterator[pa.Table]:
    """The partitions' rows, a partition at a time."""
    for path in paths:
        with opened(path) as source:
            places = [n for n, field in enumerate(pa.ipc.open_file(source).schema) if field.name in columns]
            file = pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=places))
            table = file.read_all()
        yield table
