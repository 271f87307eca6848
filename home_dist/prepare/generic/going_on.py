"""Checks before a preparation goes on from an earlier one: is it the same description, are these new days?"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from home_dist.errors import ConfigError, DataError
from home_dist.files.remote import SourceFile
from home_dist.ids.arrow_types import is_list
from home_dist.ids.keys import key_type
from home_dist.prepare.days import day_name
from home_dist.prepare.engine.mirror import here
from home_dist.prepare.generic.log_files import TYPES, Chunk
from home_dist.prepare.generic.log_spec import LogSpec
from home_dist.prepare.generic.scan import ALL_DAYS
from home_dist.prepare.generic.state import Base, FileRead

_NAMED = 5  # lines of a difference, or files, that are named
_WORDS = {"integer": "whole numbers", "text": "texts"}
# What may differ from the base's description: where files are, splits, how later values, boundaries and thresholds are chosen,
# and whether bad rows end the preparation.
_FREE = {"log", "format", "split", "train_files", "buckets", "types"}
_FREE_OF = {
    "side": {"files", "format"},
    "id": {"min_count", "rows", "most_new"},
    "number": {"buckets", "boundaries"},
    "past": {"boundaries"},
    "label": {"thresholds", "duration_groups", "bad"},
}


class NothingNew(DataError):
    """The log holds no rows that the base has not read."""


def check_description(spec: LogSpec, base: Base) -> None:
    """Raises ConfigError, which names the keys, for a description that counts or names something else than the base's."""
    try:
        there = LogSpec.model_validate(base.record.description).model_dump(mode="json")  # with defaults of keys that are new
    except ValidationError:
        there = base.record.description
    before, now = _flat(there), _flat(spec.model_dump(mode="json"))
    changed = [
        f"{key}: {before.get(key, 'not set')!r} there, {now.get(key, 'not set')!r} here"
        for key in dict.fromkeys([*before, *now])
        if before.get(key) != now.get(key)
    ]
    if changed:
        more = f"; and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
        raise ConfigError(
            f"the description is not the one of {base.folder}: {'; '.join(changed[:_NAMED])}{more}. Take that description to "
            f"go on, or prepare all days anew, without --like."
        )
    for section in spec.id:
        table = base.tables.get(section.column)
        keys = table.origin.keys if table is not None and table.origin is not None else 0
        if section.rows is not None and section.rows < 1 + keys:
            raise ConfigError(
                f"id {section.column!r}: rows = {section.rows:,}, but its vocabulary of {base.folder} has {keys:,} values, "
                f"and row 0 is for missing ones. Give at least {keys + 1:,} rows."
            )


def full_tables(spec: LogSpec, base: Base) -> Iterator[str]:
    """A line per [[id]] whose table has no room for new values."""
    for section in spec.id:
        origin = base.tables[section.column].origin
        if section.rows is not None and origin is not None and origin.keys + 1 >= section.rows:
            yield (
                f"WARNING: the table of {section.column!r} is full: its {section.rows:,} rows are those of {base.folder}. New "
                "values will be as rare ones; raise `rows` of its [[id]]"
            )


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The description's keys that must agree: "past.0.strength" and so on, with their values."""
    flat = {}
    for key, value in tree.items():
        entries = value if isinstance(value, list) and any(isinstance(e, dict) for e in value) else None
        if key in _FREE:
            continue
        if entries is None:
            flat[key] = value
            continue
        for place, entry in enumerate(entries):
            if isinstance(entry.get("events"), dict):
                entry = entry | {"events": {k: v for k, v in entry["events"].items() if k not in ("files", "format")}}
            flat |= {f"{key}.{place}.{k}": v for k, v in entry.items() if k not in _FREE_OF.get(key, ()) and v not in ([], {})}
    return flat


def new_files(paths: Sequence[SourceFile], named: Sequence[str], base: Base) -> list[bool]:
    """For each file of the log: whether it may hold rows that the base has not read. named: their names as the base knows them.
    Raises DataError when there is none."""
    are_new = []
    for path, name in zip(paths, named, strict=True):
        read = base.record.read.get(name)
        state = path.stat()
        same = read is not None and (read.bytes, read.modified_ns) == (state.st_size, state.st_mtime_ns)
        are_new.append(not same or read is None or not read.is_read_whole)
    if not any(are_new):
        last = day_name(base.record.end_day - 1)
        raise NothingNew(
            f"all {len(paths):,} files of the log were read for {base.folder}, whose last day is {last}. Add the files of "
            f"later days."
        )
    return are_new


def with_key_types(types: Mapping[str, pa.DataType], base: Base, log: str) -> dict[str, pa.DataType]:
    """The types of the log's columns, with the base's for keys that are null throughout. Raises DataError for keys of another
    type than the base's."""
    known = dict(types)
    for name, kind in types.items():
        wanted = base.record.key_types.get(name)
        value = kind.value_type if is_list(kind) else kind
        if wanted is None:
            continue
        if pa.types.is_null(value):
            known[name] = pa.list_(TYPES[wanted]) if name in base.record.lists else TYPES[wanted]
        elif key_type(value) not in (None, wanted):
            raise DataError(
                f"{log}: column {name!r} has type {kind}, but {_WORDS[wanted]} in {base.folder}. Write it in that type"
                + (f', or say types = {{ {name} = "text" }}.' if wanted == "text" else ".")
            )
    return known


def read_by_file(chunks: Sequence[Chunk], scanned: Sequence[Path], named: Mapping[int, str], end: int) -> dict[str, FileRead]:
    """What has been read of each file, up to the day `end`. named: by index, the files' names."""
    days: dict[int, dict[int, int]] = {}
    for chunk, folder in zip(chunks, scanned, strict=True):
        of_file = days.setdefault(chunk.file.index, {})
        table = pq.read_table(here(folder / ALL_DAYS))
        for day, rows in zip(table.column("day").to_pylist(), table.column("rows").to_pylist(), strict=True):
            of_file[day] = of_file.get(day, 0) + rows
    files = {c.file.index: c.file for c in chunks}
    return {
        named[i]: FileRead(
            bytes=files[i].bytes,
            modified_ns=files[i].modified_ns,
            rows=files[i].rows,
            days={d: n for d, n in sorted(of_file.items()) if d < end},
        )
        for i, of_file in sorted(days.items())
    }


def check_days(read: Mapping[str, FileRead], days: Iterable[int], base: Base, gap: bool, late: bool = False) -> list[str]:
    """read: of each file that was looked at; days: that have rows to read; gap: whether days may be missing between them and
    the base; late: whether rows of days that the base holds without them are left out. Returns lines about these. Raises
    DataError for such rows, and for missing days."""
    end = base.record.end_day
    overlaps = []
    for name, file in read.items():
        known = base.record.read.get(name)
        before = {d: n for d, n in file.days.items() if d < end}
        if before != ({} if known is None else known.days):
            there = sum(known.days.values()) if known is not None else 0
            span = f"{day_name(min(before))} to {day_name(max(before))}" if before else "none"
            overlaps.append(f"{name}: {sum(before.values()):,} rows of days that it holds ({span}), of which it read {there:,}")
    if overlaps and not late:
        more = f"; and {len(overlaps) - _NAMED} more files" if len(overlaps) > _NAMED else ""
        raise DataError(
            f"the log overlaps with {base.folder}, whose last day is {day_name(end - 1)}: "
            f"{'; '.join(overlaps[:_NAMED])}{more}. Rows that came late cannot be added to what was counted: leave them out "
            "with --skip-late, or prepare all days anew, without --like."
        )
    first = min(days, default=None)
    if first is None:
        raise NothingNew(f"the log holds no rows after {day_name(end - 1)}, the last day of {base.folder}. Add later days.")
    if first > end and not gap:
        raise DataError(
            f"the log goes on at {day_name(first)}, but {base.folder} ends with {day_name(end - 1)}: {first - end} days are "
            f"missing. Add them, or give --allow-gap if there were none."
        )
    return [f"late rows are left out: {line}" for line in overlaps]
