"""Writes the proposed description."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from home_dist.errors import ConfigError
from home_dist.files.json_files import json_text
from home_dist.files.places import is_remote
from home_dist.files.remote import SourceFile
from home_dist.prepare.days import DAY_MS, day_name
from home_dist.prepare.engine.mirror import source
from home_dist.prepare.formats.format_section import FormatSection
from home_dist.prepare.generic import columns as c
from home_dist.prepare.generic.folder_columns import as_value
from home_dist.prepare.generic.log_files import Beside, find_log
from home_dist.prepare.generic.log_spec import load_spec
from home_dist.prepare.proposal.look import LogLook, SeenColumn, look_at
from home_dist.prepare.proposal.roles import Roles, event_fields, is_skewed, roles_of, scale_of

_OUTCOMES = 3


def propose(log: str, out: Path) -> str:
    """Writes a description of the files that match `log` to `out`. Returns what is to be told. Raises ConfigError if `out` is
    there or has no folder, or if the log has no column of times, users or labels; DataError for files that cannot be read."""
    if out.exists():
        raise ConfigError(f"{out}: is there already. Name another file, or remove it.")
    if not out.parent.is_dir():
        raise ConfigError(f"{out}: cannot be written: {out.parent} is no folder. Make it, or name another file.")
    section = _table_of(log)
    files, beside = find_log(Path(), log, section)
    looked = look_at(files, beside, section)
    roles = roles_of(looked.columns)
    _check(roles, log, looked)
    days = None if roles.time is None else _days(files, beside, roles.time, looked)
    place = log if is_remote(log) else os.path.relpath(log, out.parent)
    out.write_text("\n".join(_lines(place, looked, roles, days)) + "\n")
    load_spec(out)  # what is proposed must be a description
    span = "no times" if days is None else f"days {day_name(days[0])} to {day_name(days[1])}"
    told = [f"{len(files):,} files, {looked.rows:,} rows looked at, {span}"]
    return "\n".join([*told, f"written to {out}: a proposal. Read and correct it, then: home-dist prepare {out} data"])


def _table_of(log: str) -> FormatSection:
    """Of a folder that is a Delta or Iceberg table; else that of files."""
    place = Path(log)
    if not is_remote(log) and (place / "_delta_log").is_dir():
        return FormatSection(kind="delta")
    if not is_remote(log) and any((place / "metadata").glob("*.metadata.json")):
        return FormatSection(kind="iceberg")
    return FormatSection()


def _check(roles: Roles, log: str, looked: LogLook) -> None:
    """Raises ConfigError if there are no labels."""
    if not roles.labels and roles.watched is None:
        names = ", ".join(column.name for column in looked.columns)
        raise ConfigError(
            f"{log}: no column that could be a label is found (0 and 1, or a time that was spent). There are: {names}. "
            "Describe the log by hand: docs/howto/own-log.md shows how."
        )


def _days(files: Sequence[SourceFile], beside: Beside, time: SeenColumn, looked: LogLook) -> tuple[int, int]:
    """The first and the last day, in UTC: of all files by their footers where they are Parquet, else of those looked at."""
    values = [time.known.combine_chunks()]
    in_folders = [text for of_file in beside.values if (text := of_file.get(time.name)) is not None]
    if in_folders:
        values += [pa.concat_arrays([pa.array([as_value(text, time.kind).as_py()], time.kind) for text in in_folders])]
    if looked.format.kind_of(str(files[0])) == "parquet":
        values += [pa.array(found, time.kind) for file in files if (found := list(_bounds(file, time.name)))]
    moments = np.concatenate([c.times(v, time.time_unit or "ms", "log", 0, time.name) for v in values])
    return int(moments.min()) // DAY_MS, int(moments.max()) // DAY_MS


def _bounds(file: SourceFile, name: str) -> Iterator[object]:
    """The least and the greatest value of a column in each row group, where the footer has them."""
    metadata = pq.read_metadata(source(file))
    columns = {metadata.row_group(0).column(n).path_in_schema: n for n in range(metadata.num_columns)}
    if name not in columns:
        return
    for group in range(metadata.num_row_groups):
        found = metadata.row_group(group).column(columns[name]).statistics
        if found is not None and found.has_min_max:
            yield from (found.min, found.max)


def _lines(log: str, looked: LogLook, roles: Roles, days: tuple[int, int] | None) -> Iterator[str]:
    def told(column: SeenColumn) -> str:
        return f"  # {column.told(looked.rows)}"

    yield f"# Proposed by home-dist prepare init, from {looked.rows:,} rows. Read it and correct it."
    yield "# Remove what is known only after an impression: as a feature it would tell the labels."
    yield f"log = {json_text(log, indent=None)}"
    given = {k: v for k, v in looked.format.model_dump().items() if v != FormatSection.model_fields[k].default}
    if given:
        yield "format = { " + ", ".join(f"{k} = {json_text(v, indent=None)}" for k, v in given.items()) + " }"
    user, time = roles.user, roles.time
    if user is not None:
        yield f'user = "{user.name}"{told(user)}'
    else:
        yield '# user = "COLUMN"  # none is found: histories and GAUC need one'
    yield from _times(time, days, told)
    for label in roles.labels:
        rate = float(label.numbers.mean()) if len(label.known) else 0.0
        yield f'\n[[label]]\nname = "{label.name}"\ngroup = "action"\ncolumn = "{label.name}"  # 1 in {rate:.2%} of the rows'
    if roles.watched is not None:
        yield from _watch_time(roles.watched, roles.length, told)
    for column in [*([user] if user else []), *([roles.item] if roles.item else []), *roles.ids]:
        yield f'\n[[id]]\ncolumn = "{column.name}"{told(column)}'
        if column.separator is not None and column not in (user, roles.item):
            yield f"separator = {json_text(column.separator, indent=None)}"
    for column in roles.numbers:
        yield f'\n[[number]]\ncolumn = "{column.name}"{told(column)}'
        if is_skewed(column):
            yield "log = true"
    if time is not None:
        yield from _pasts(roles)
    yield from _given_events(looked, roles)
    if roles.left_out:
        yield "\n# Left out:"
        yield from (f"# {column.name}: {reason}" for column, reason in roles.left_out)


def _times(time: SeenColumn | None, days: tuple[int, int] | None, told: Callable[[SeenColumn], str]) -> Iterator[str]:
    if time is None or days is None:
        yield "# No column of times is found. If the files, by their names, and their rows stand in the order of time, say"
        yield '# order = "files" and split = { by = "files", validation = 1, test = 1 }; [[past]] and [[history]] go by it.'
        yield 'split = { by = "random", validation = 0.1, test = 0.1 }'
        return
    yield f'time = "{time.name}"{told(time)}'
    if time.time_unit:
        yield f'time_unit = "{time.time_unit}"'
    yield 'utc_offset_hours = 0  # of the calendar that makes days, hours and weekdays; or time_zone = "Europe/Berlin"'
    count = days[1] - days[0] + 1
    yield f"split = {{ train_days = {max(1, count - 2)}, validation_days = 1, test_days = 1 }}  # of {count} days"


def _given_events(looked: LogLook, roles: Roles) -> Iterator[str]:
    """Lists of structs, which may be histories."""
    for column in looked.columns:
        if column.is_list_of_events and roles.item is not None:
            names = ", ".join(f"{part.name}: {part.type}" for part in column.kind.value_type)
            yield f"\n# {column.name} holds lists of {names}. As a history, with two of them in place of ITEM and AT:"
            yield f'# [[history]]\n# name = "{column.name}"\n# fields = ["{roles.item.name}"]'
            yield f'# events = {{ column = "{column.name}", time = "AT", columns = {{ {roles.item.name} = "ITEM" }} }}'


def _watch_time(watched: SeenColumn, length: SeenColumn | None, told: Callable[[SeenColumn], str]) -> Iterator[str]:
    name = f"{re.sub('_?(time)?_?(ms|s|secs?|seconds)?$', '', watched.name) or watched.name}_seconds"
    yield f'\n[[label]]\nname = "{name}"\ngroup = "watch"\ncolumn = "{watched.name}"{told(watched)}'
    yield 'kind = "regression"\nunit = "s"'
    yield f'scale = {scale_of(watched):g}\nbad = "unknown"'
    if length is not None:
        yield f'duration = "{length.name}"{told(length)}'


def _pasts(roles: Roles) -> Iterator[str]:
    rates = ", ".join(f'"{label.name}"' for label in roles.labels)
    for column in (roles.item, roles.user):
        if column is not None:
            yield f'\n[[past]]\nby = ["{column.name}"]\nrates = [{rates}]'
    if roles.user is not None and (fields := event_fields(roles)):
        outcomes = ", ".join(f'"{label.name}"' for label in roles.labels[:_OUTCOMES])
        names = ", ".join(f'"{field.name}"' for field in fields)
        yield f'\n[[history]]\nname = "seen"\nfields = [{names}]\noutcomes = [{outcomes}]'
