"""What a preparation left for the next one: routed to the next one's partitions, and collected at the end of it."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from home_dist.prepare.asof import Ints
from home_dist.prepare.engine import Task, Work
from home_dist.prepare.engine.mirror import source
from home_dist.prepare.engine.spill import write_parts
from home_dist.prepare.generic.condensed import key_columns
from home_dist.prepare.generic.encode import Fitted
from home_dist.prepare.generic.history import history_file
from home_dist.prepare.generic.log_plan import Plan, parts_of_keys, parts_of_users, user_hashes
from home_dist.prepare.generic.log_spec import LogSpec
from home_dist.prepare.generic.partition import own_file
from home_dist.prepare.generic.past import PAST_FILE
from home_dist.prepare.generic.state import Base, FileRead, StateRecord, events_file, key_sets, past_file

ROUTED = "earlier.arrow"


@dataclass(frozen=True)
class Earlier:
    """Files of routed events, with a batch per partition: by key set of plan.elsewhere, of plan.own, and by [[history]]."""

    elsewhere: tuple[tuple[Path, ...], ...]
    own: tuple[tuple[Path, ...], ...]
    events: tuple[tuple[Path, ...], ...]

    @staticmethod
    def nothing(plan: Plan) -> "Earlier":
        return Earlier(((),) * len(plan.elsewhere), ((),) * len(plan.own), ((),) * len(plan.spec.history))


def route(plan: Plan, base: Base, work: Work) -> Earlier:
    """Cuts what the base left into this preparation's partitions."""
    sets, tasks, places = key_sets(plan.spec), [], []
    for number, by in enumerate(sets):
        place = ("own", plan.own.index(by)) if by in plan.own else ("elsewhere", plan.elsewhere.index(by))
        for path, group, rows in _groups(base.files("past", number)):
            tasks.append(Task(partial(_route_past, plan, by, path, group), rows))
            places.append(place)
    for number, history in enumerate(plan.spec.history):
        left = [] if history.events is not None else base.files("events", number)
        for path, group, rows in _groups(left):
            tasks.append(Task(partial(_route_events, plan, path, group), rows))
            places.append(("events", number))
    routed: dict[tuple[str, int], list[Path]] = {}
    for place, folder in zip(places, work.run("earlier", f"reading what {base.folder} left", tasks), strict=True):
        routed.setdefault(place, []).append(folder / ROUTED)

    def of(kind: str, count: int) -> tuple[tuple[Path, ...], ...]:
        return tuple(tuple(routed.get((kind, number), ())) for number in range(count))

    return Earlier(of("elsewhere", len(plan.elsewhere)), of("own", len(plan.own)), of("events", len(plan.spec.history)))


def left_rows(spec: LogSpec, base: Base) -> int:
    """Rows of all that the base left: a partition gets its share of them, too."""
    kinds = [("past", n) for n in range(len(key_sets(spec)))] + [("events", n) for n in range(len(spec.history))]
    return sum(rows for kind, number in kinds for _, _, rows in _groups(base.files(kind, number)))


def _groups(paths: Sequence[Path]) -> Iterator[tuple[Path, int, int]]:
    """(file, index, rows) of each row group: as much as a task has in memory."""
    for path in paths:
        metadata = pq.read_metadata(path)
        for group in range(metadata.num_row_groups):
            yield path, group, metadata.row_group(group).num_rows


def _route_past(plan: Plan, by: tuple[str, ...], path: Path, group: int, folder: Path) -> None:
    table = pq.ParquetFile(source(path)).read_row_group(group)
    keys = key_columns(table, by)
    user = plan.spec.user
    if user is not None and user in by:
        part = parts_of_users(user_hashes(keys[by.index(user)], *_nowhere(len(table))), plan.parts)
    else:
        part = parts_of_keys(keys, plan.parts)
    write_parts(folder / ROUTED, table, part, plan.parts)


def _route_events(plan: Plan, path: Path, group: int, folder: Path) -> None:
    table = pq.ParquetFile(source(path)).read_row_group(group)
    users = table.column("user").combine_chunks()
    write_parts(folder / ROUTED, table, parts_of_users(user_hashes(users, *_nowhere(len(table))), plan.parts), plan.parts)


def _nowhere(count: int) -> tuple[Ints, Ints]:
    """Rows and times by which missing users would be hashed; a state has none."""
    return np.zeros(count, np.int64), np.zeros(count, np.int64)


def left_files(plan: Plan, work: Path, gathered: Sequence[Path], encoded: Sequence[Path]) -> dict[str, Path]:
    """Files for the next preparation, by the names that they have in a state. work: the work folder."""
    files = {}
    for number, by in enumerate(key_sets(plan.spec)):
        for part in range(plan.parts):
            if by in plan.own:
                files[past_file(number, part)] = gathered[part] / own_file(plan.own.index(by))
            else:
                files[past_file(number, part)] = work / f"past-{plan.elsewhere.index(by)}" / f"{part:05d}" / PAST_FILE
    for number, history in enumerate(plan.spec.history):
        if history.reads_lists:
            continue
        files |= {events_file(number, part): f / history_file(number) for part, f in enumerate(encoded)}
    return files


def record_of(
    plan: Plan,
    fitted: Fitted,
    read: Mapping[str, FileRead],
    before: StateRecord | None,
    everyone: Mapping[str, tuple[int, int]],
    there: Collection[str],
) -> StateRecord:
    """read: what was read of each file; before: of the preparation that this one went on from; everyone: sums of labels over
    all rows so far; there: files that the log still has."""
    spec = plan.spec
    users = [] if spec.user is None else [spec.user]
    kinds = {name: plan.known.key(name) for name in [*users, *(c for p in spec.past for c in p.by)]}
    kinds |= {section.column: plan.known.id_key(section) for section in spec.id}
    return StateRecord(
        description=spec.model_dump(mode="json"),
        key_types=kinds,
        lists=tuple(section.column for section in spec.id if plan.known.is_list(section.column)),
        first_day=fitted.days.train if before is None else before.first_day,
        end_day=fitted.days.end,
        steps=fitted.steps,
        known=fitted.known,
        everyone=dict(everyone),
        read={n: r for n, r in (before.read if before is not None else {}).items() if n in there} | dict(read),
    )
