"""Before the log is read: has its files as Parquet, checks its columns against the description, sorts side tables."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pyarrow as pa

from home_dist.errors import DataError
from home_dist.files.remote import SourceFile
from home_dist.ids.arrow_types import is_text
from home_dist.prepare.engine import Task, Work
from home_dist.prepare.formats.converting import CONVERTED, convert
from home_dist.prepare.formats.format_section import FormatSection
from home_dist.prepare.generic.columns import Types
from home_dist.prepare.generic.given_events import check_events, event_types
from home_dist.prepare.generic.going_on import with_key_types
from home_dist.prepare.generic.label_columns import check_types
from home_dist.prepare.generic.log_files import SIDE, TYPES, Beside, File, find_log, look, write_side
from home_dist.prepare.generic.log_sections import IdSection
from home_dist.prepare.generic.log_spec import LogSpec
from home_dist.prepare.generic.own_parts import split_columns
from home_dist.prepare.generic.split_sections import ColumnSplit, RandomSplit
from home_dist.prepare.generic.state import Base

FoundTable = tuple[list[SourceFile], Beside]
"""Files of another table than the log, and its columns that are not in them."""


@dataclass(frozen=True)
class FoundFiles:
    """Source files of the log, and of each other table."""

    log: list[SourceFile]
    """Files to read."""
    sides: list[FoundTable]
    places: list[int]
    """Of the files to read among `every`: numbers of rows depend on them."""
    every: list[SourceFile]
    """All files of the log, those included that an earlier preparation has read."""
    beside: Beside
    """Columns of the files to read that are not in them."""
    events: dict[int, FoundTable]
    """The tables of other events, by the number of their [[history]]."""

    @classmethod
    def of(cls, spec: LogSpec, folder: Path) -> "FoundFiles":
        """Finds the described files. Raises DataError when there is none, or when one is empty."""
        log, beside = find_log(folder, spec.log, spec.format)
        return cls(
            log,
            [find_log(folder, s.files, s.format) for s in spec.side],
            list(range(len(log))),
            log,
            beside,
            _event_files(spec, folder),
        )

    @property
    def files(self) -> list[SourceFile]:
        """All that are read."""
        return [file for files in (self.log, *(files for files, _ in (*self.sides, *self.events.values()))) for file in files]

    def only(self, chosen: Sequence[bool]) -> "FoundFiles":
        """With the chosen ones of the log's files to read."""
        kept = [n for n, is_chosen in enumerate(chosen) if is_chosen]
        beside = replace(self.beside, values=[self.beside.values[n] for n in kept])
        return replace(self, log=[self.log[n] for n in kept], places=[self.places[n] for n in kept], beside=beside)


@dataclass(frozen=True)
class LogInputs:
    files: list[File]
    """Of the log."""
    log_types: dict[str, pa.DataType]
    """Types of the used columns of the log itself."""
    types: dict[str, pa.DataType]
    """Types of all columns, used or not, side tables included."""
    sides: tuple[tuple[Path, str], ...]
    """Written side tables, and their keys."""
    absent: dict[str, list[str]]
    """By used column: the log's files that do not have it."""
    events: dict[int, tuple[list[File], dict[str, pa.DataType]]]
    """By the number of their [[history]]: files of other events, with the types of the columns that are read."""

    @property
    def rows(self) -> int:
        return sum(f.rows for f in self.files)


def open_log(
    spec: LogSpec,
    sources: FoundFiles,
    work: Work,
    base: Base | None = None,
    keep: Sequence[str] = (),
    labels_needed: bool = True,
) -> LogInputs:
    """Opens the log's files. base: an earlier preparation, whose types of keys must be the log's; keep: columns that are read
    without any use; labels_needed: columns of labels must be there. Raises DataError for columns that do not fit the
    description."""
    declared = {name: TYPES[kind] for name, kind in spec.types.items()}
    tables = [sources.log, *(paths for paths, _ in sources.sides)]
    converted = _converted(tables, [spec.format, *(s.format for s in spec.side)], declared, work)
    log = look(converted[0], sources.log, declared, sources.places, sources.beside)
    files, log_types = log.files, log.types if base is None else with_key_types(log.types, base, spec.log)
    if not any(f.rows for f in files):
        raise DataError(f"{spec.log}: the log holds no rows.")
    used, types, tasks = _used(spec) | set(keep), dict(log_types), []
    for section, paths, (names, beside) in zip(spec.side, converted[1:], sources.sides, strict=True):
        if not section.format.is_table:  # a folder such as date=2024-01-31 may only tell when the side table was written
            beside = replace(beside, values=[{n: v for n, v in of.items() if n not in types} for of in beside.values])
        side = look(paths, names, declared, beside=beside)
        side_types = side.types
        side_types = side_types if base is None else with_key_types(side_types, base, section.files)
        kinds = Types(spec.log, types).key(section.key), Types(section.files, side_types).key(section.key)
        if kinds[0] != kinds[1]:
            raise DataError(
                f"{section.files}: column {section.key!r} has type {side_types[section.key]}, in {spec.log} it has type "
                f"{types[section.key]}. Both must be whole numbers, or both texts."
            )
        for name in side_types:
            if name != section.key and name in types:
                raise DataError(
                    f"{section.files}: column {name!r} is in the log or another side table too. Rename one of them."
                )
        wanted = {n: t for n, t in side_types.items() if n in used}
        tasks.append(Task(partial(write_side, side.files, section.files, section.key, wanted), 1))
        types |= side_types | {section.key: types[section.key]}
    for name in declared:
        if name not in types:
            raise DataError(f"types: column {name!r} is in no file of the log or of a side table. Correct the description.")
    _check(spec, Types(spec.log, types, log.odd), labels_needed)
    for kept in keep:
        if kept not in types:
            raise DataError(f"--keep {kept}: no such column in the log; there are: {', '.join(list(types)[:40])}")
    folders = work.run("side", "joining", tasks, "tables") if tasks else []
    sides = tuple((f / SIDE, s.key) for f, s in zip(folders, spec.side, strict=True))
    absent = {n: names for n, names in log.absent.items() if n in used}
    events = _open_events(spec, sources, Types(spec.log, types), declared, work)
    return LogInputs(files, {n: t for n, t in log_types.items() if n in used}, types, sides, absent, events)


def _event_files(spec: LogSpec, folder: Path) -> dict[int, FoundTable]:
    asked = {n: h.given for n, h in enumerate(spec.history) if h.reads_table}
    return {n: find_log(folder, str(events.files), events.format) for n, events in asked.items()}


def _open_events(
    spec: LogSpec, sources: FoundFiles, types: Types, declared: dict[str, pa.DataType], work: Work
) -> dict[int, tuple[list[File], dict[str, pa.DataType]]]:
    """As LogInputs.events. types: of the log."""
    keys = {s.column: types.id_key(s) for s in spec.id}
    opened = {}
    for number, history in enumerate(spec.history):
        if history.reads_lists:
            check_events(history, event_types(history, types.types, spec.log), keys, spec.log)
        if not history.reads_table:
            continue
        events, (paths, beside) = history.given, sources.events[number]
        where, user = str(events.files), str(events.user)
        [converted] = _converted([paths], [events.format], declared, work, f"convert-events-{number}")
        looked = look(converted, paths, declared, beside=beside)
        check_events(history, event_types(history, looked.types, where), keys, where)
        there = Types(where, looked.types)
        if there.key(user) != types.key(str(spec.user)):
            raise DataError(
                f"{where}: column {user!r} has type {there.of(user)}, but {spec.user!r} has type {types.of(str(spec.user))} in "
                f"{spec.log}. Both must be whole numbers, or both texts."
            )
        read = [user, events.column] if events.column is not None else [user, *events.needed(history.fields)]
        opened[number] = (looked.files, {name: looked.types[name] for name in read})
    return opened


def _converted(
    path_lists: Sequence[list[SourceFile]],
    formats: Sequence[FormatSection],
    declared: dict[str, pa.DataType],
    work: Work,
    stage: str = "convert",
) -> list[list[SourceFile]]:
    """The paths, in the same order, with the Parquet conversion of each file that is none. formats: of each list."""
    places = [(n, p, f) for n, (paths, f) in enumerate(zip(path_lists, formats, strict=True)) for p in paths]
    others = [(n, p, f) for n, p, f in places if f.kind_of(str(p)) != "parquet"]
    if not others:
        return list(path_lists)
    tasks = [Task(partial(convert, p, declared=declared, section=f), p.stat().st_size) for _, p, f in others]
    folders = work.run(stage, "reading texts", tasks, "bytes")
    written: dict[tuple[int, SourceFile], SourceFile] = {
        (n, p): folder / CONVERTED for (n, p, _), folder in zip(others, folders, strict=True)
    }
    return [[written.get((n, p), p) for p in paths] for n, paths in enumerate(path_lists)]


def _used(spec: LogSpec) -> set[str]:
    used = {n for n in (spec.user, spec.time) if n is not None} | split_columns(spec)
    used |= {i.column for i in spec.id} | {n.column for n in spec.number}
    used |= {c for p in spec.past for c in p.by} | {s.key for s in spec.side}
    used |= {str(h.given.column) for h in spec.history if h.reads_lists}
    return used | {c for x in spec.label for c in (x.column, x.known, x.duration) if c is not None}


def _check(spec: LogSpec, types: Types, labels_needed: bool) -> None:
    """Raises DataError, a line per problem, unless every column that the description names exists and has a type that fits its
    use."""
    checks: list[Callable[[], object]] = [] if spec.time is None else [partial(types.time, spec.time)]
    keys = [*([] if spec.user is None else [spec.user]), *(c for p in spec.past for c in p.by)]
    match spec.split:
        case ColumnSplit():
            checks.append(partial(_check_parts, types, spec.split.column))
        case RandomSplit():
            keys += spec.split.key
    checks += [partial(types.key, n) for n in dict.fromkeys(keys)]
    checks += [partial(_check_id, spec, types, section) for section in spec.id]
    checks += [partial(types.number, n.column) for n in spec.number]
    checks += [partial(check_types, types, [label], labels_needed) for label in spec.label]
    problems = []
    for check in checks:
        try:
            check()
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("\n".join(dict.fromkeys(problems)))


def _check_parts(types: Types, column: str) -> None:
    kind = types.of(column)
    if not (is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_date(kind)):
        raise types.wrong(column, "texts, whole numbers, booleans or dates, as its values name the split's parts,")


def _check_id(spec: LogSpec, types: Types, section: IdSection) -> None:
    many = section.separator is not None or types.is_list(section.column)
    if many and any(section.column in h.fields for h in spec.history):
        raise types.wrong(section.column, "whole numbers or texts, as a history has it,")
    types.id_key(section)
