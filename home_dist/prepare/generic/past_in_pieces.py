"""The past of keys in a partition that does not fit in memory, as when one key has very many events: counted slice of time by
slice of time.

The sum over a key's events before a moment is the sum over all earlier slices, which is carried from slice to slice, and that
over the events before the moment within its slice. A window's sum is the difference of two such sums; a second cursor, a window
behind the first, makes the other one. The numbers are those of past.py, which counts a partition that fits.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from home_dist.prepare.asof import Ints
from home_dist.prepare.engine.spill import batches_of, write_parts
from home_dist.prepare.generic.condensed import COUNT, GROUP, LEFT, NO_ROW, sums_of
from home_dist.prepare.generic.log_plan import Plan, flags, moments
from home_dist.prepare.generic.log_sections import PastSection
from home_dist.prepare.generic.log_spec import LogSpec
from home_dist.prepare.generic.repeated import CONTENT
from home_dist.prepare.generic.running_sums import RunningSums, counted_since
from home_dist.prepare.generic.time_slices import CODE, MomentSample, TimeSlices
from home_dist.prepare.generic.windows import pause_of, told_apart_from, until, window_of

Tables = Iterator[pa.Table]


class _Counter:
    """Counts one [[past]] entry; slices come in order."""

    def __init__(self, past: PastSection, slices: TimeSlices, spec: LogSpec, names: Sequence[str]):
        self.past, self.spec, self.names = past, spec, names
        self.window, self.pause = window_of(past), pause_of(spec)
        self._upto = RunningSums(slices, names, self.pause)
        self._early = None if self.window is None else RunningSums(slices, names, None)

    def count(self, code: Ints, time: Ints) -> dict[str, Ints]:
        """As count_past, for rows (N,) of a slice."""
        time = until(self.past, time, self.spec)
        early = None if self._early is None or self.window is None else self._early.before(code, time - self.window)
        upto = self._upto.before(code, time)
        sums = dict(counted_since(upto, time, self.window, early, self.pause, self.names))
        told = {f"{self.past.prefix}.count": sums[COUNT]}
        for rate in self.past.rates:
            told |= {f"{self.past.prefix}.{s}.{rate}": sums[f"{s}_{rate}"] for s in ("happened", "known")}
        return told


def _events(plan: Plan, pasts: Sequence[PastSection], part: int, spilled: Sequence[Path], earlier: Sequence[Path]) -> Tables:
    """A partition's events, batch by batch: those of the preparation before, with NO_ROW as row, then those of the log."""
    merge, summed = plan.spec.repeated == "merge", pa.int64() if earlier else pa.int8()
    key_kinds: dict[str, pa.DataType] = {}
    for paths, is_log in ((earlier, False), (spilled, True)):
        for batch in batches_of(paths, part):
            if not len(batch):
                continue
            columns = {
                "row": batch.column("row") if is_log else pa.array(np.full(len(batch), NO_ROW)),
                "part": batch.column("part") if is_log else pa.array(np.zeros(len(batch), np.int32)),
                "time": batch.column("time"),
                COUNT: pa.array(np.ones(len(batch), np.int64)).cast(summed) if is_log else batch.column(COUNT),
            }
            if merge:
                columns[CONTENT] = batch.column(CONTENT) if is_log else pa.array(np.zeros(len(batch), np.uint64))
            columns |= {n: batch.column(n).cast(summed) for n in sums_of(pasts)}
            for name in (n for n in batch.schema.names if n.startswith("key_")):
                columns[name] = batch.column(name).cast(key_kinds.setdefault(name, batch.column(name).type))
            yield pa.table(columns)


def count_in_pieces(
    plan: Plan,
    by: tuple[str, ...],
    part: int,
    spilled: Sequence[Path],
    earlier: Sequence[Path],
    end_ms: int,
    folder: Path,
    back: str,
    left: Path,
) -> None:
    """Counts all [[past]] entries of a key set in one partition of its keys. Writes a file per slice of counts of its rows, by
    partition of users, and to `left` what the next preparation needs.

    back: the files' names, with a place for the slice's number."""
    pasts = [p for p in plan.spec.past if p.by == by]
    sample = MomentSample(plan.piece_rows)
    for table in _events(plan, pasts, part, spilled, earlier):
        sample.add(moments(table))
    slices = TimeSlices(folder / "slices", sample.begins(), len(by), plan.spec.repeated == "merge", plan.piece_rows)
    slices.fill(_events(plan, pasts, part, spilled, earlier))
    counters = [_Counter(past, slices, plan.spec, [COUNT, *sums_of([past])]) for past in pasts]
    for number in range(len(slices)):
        table = slices.read(number)
        own = table.filter(pa.array(flags(table, "row") >= 0))
        code, time = own.column(CODE).to_numpy(), moments(own)
        counts: dict[str, Ints] = {}
        for counter in counters:
            counts |= counter.count(code, time)
        told = pa.table({"row": own.column("row"), **{n: pa.array(v) for n, v in counts.items()}})
        write_parts(folder / back.format(number), told, own.column("part").to_numpy().astype(np.int64), plan.parts)
    with pq.ParquetWriter(left, _left_schema(pasts, slices), **LEFT) as writer:
        for piece in _left(pasts, slices, end_ms, plan.spec):
            writer.write_table(piece, GROUP)
    shutil.rmtree(folder / "slices")


def _left_schema(pasts: Sequence[PastSection], slices: TimeSlices) -> pa.Schema:
    keys = slices.keys.keys(np.zeros(0, np.int64))
    kinds = {f"key_{place}": column.type for place, column in enumerate(keys)}
    return pa.schema(kinds | dict.fromkeys(["time", COUNT, *sums_of(pasts)], pa.int64()))


def _left(pasts: Sequence[PastSection], slices: TimeSlices, end_ms: int, spec: LogSpec) -> Iterator[pa.Table]:
    """The rows of `condensed`, in order of time: first events that some window can still reach, then one per key."""
    names, pause = [COUNT, *sums_of(pasts)], pause_of(spec)
    apart = told_apart_from(pasts, end_ms, spec)
    every = RunningSums(slices, [], pause)
    if pause is not None:
        every.forward(len(slices))
    sums = {n: np.zeros(len(slices.keys), np.int64) for n in names}
    last = np.full(len(slices.keys), np.iinfo(np.int64).min)

    def table(code: Ints, time: Ints, values: dict[str, Ints]) -> pa.Table:
        keys = {f"key_{place}": column for place, column in enumerate(slices.keys.keys(code))}
        return pa.table(keys | {"time": pa.array(time)} | {n: pa.array(v) for n, v in values.items()})

    for number in range(len(slices)):
        events = slices.read(number)
        code, time = events.column(CODE).to_numpy(), moments(events)
        values = {n: flags(events, n).astype(np.int64) for n in names}
        is_kept = np.ones(len(code), np.bool_)
        if pause is not None:
            is_kept = (time >= every.keys.begin[code]) & (end_ms - every.keys.newest[code] <= pause)
        is_old = is_kept & (time < apart)
        if not all(p.days is not None for p in pasts):  # else no window reaches them
            for name in names:
                np.add.at(sums[name], code[is_old], values[name][is_old])
            np.maximum.at(last, code[is_old], time[is_old])
        recent = np.flatnonzero(is_kept & ~is_old)
        yield table(code[recent], time[recent], {n: v[recent] for n, v in values.items()})
    keys = np.flatnonzero(last > np.iinfo(np.int64).min)
    yield table(keys, last[keys], {n: v[keys] for n, v in sums.items()})
