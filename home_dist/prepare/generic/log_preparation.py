"""All steps in order: a described log -> splits with schema, vocabularies and report.

Each step is a list of independent tasks over parts of the log (chunks of files, partitions of users, of keys, of hours). A task
reads Arrow tables and writes Arrow tables. The result does not depend on how the log was cut, on the number of processes, or
on the engine: rows are ordered by their users' hashes, counts are integers, and floats are summed in a fixed order.

A preparation may go on from an earlier one (`like`): it takes that one's numbers and the past that it left, and reads later
days alone. What it writes for these days is what a preparation of all days with the same numbers would write.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from home_dist import __version__
from home_dist.errors import ConfigError, DataError, UserError
from home_dist.files.json_files import read_json, write_json
from home_dist.files.remote import Gone, StoreError
from home_dist.prepare.boundaries import Counted
from home_dist.prepare.counts import LeftOut, Told, make_report
from home_dist.prepare.days import SPLITS, Days, day_name
from home_dist.prepare.drift import drift
from home_dist.prepare.engine import KINDS, Lost, Task, Work
from home_dist.prepare.engine.mirror import here
from home_dist.prepare.generic import earlier, finish, past, scan, state
from home_dist.prepare.generic.earlier import Earlier
from home_dist.prepare.generic.encode import BASE_FOUND_FILE, FOUND_FILE, Fitted, encode
from home_dist.prepare.generic.fitting import fit
from home_dist.prepare.generic.given_events import EVENTS, scan_events
from home_dist.prepare.generic.going_on import check_days, check_description, full_tables, new_files, read_by_file
from home_dist.prepare.generic.label_summary import Summary, summarise, values_of
from home_dist.prepare.generic.largest_values import extremes
from home_dist.prepare.generic.log_files import Chunk, chunks_of, named_in
from home_dist.prepare.generic.log_inputs import FoundFiles, LogInputs, open_log
from home_dist.prepare.generic.log_options import LogOptions
from home_dist.prepare.generic.log_plan import CELLS, FILE_BITS, Plan
from home_dist.prepare.generic.log_spec import LogSpec, load_spec
from home_dist.prepare.generic.log_time import clock_of, order_note
from home_dist.prepare.generic.needs import check_options
from home_dist.prepare.generic.output import OpenOutput, Output, output_of
from home_dist.prepare.generic.own_parts import check_parts
from home_dist.prepare.generic.partition import REPEATED_FILE, SEEN_FILE, gather
from home_dist.prepare.generic.sizes import chunk_rows, partitions, piece_rows
from home_dist.prepare.generic.split_sections import ColumnSplit, RandomSplit
from home_dist.prepare.generic.state import Base, write_state
from home_dist.prepare.progress import Progress, Say
from home_dist.prepare.write import file_bounds, part_name
from home_dist.schema import Schema, StatisticFeature, save_schema

_NESTED_ROWS = 16_384
"""Rows with lists of events that are read at a time."""


def prepare_log(description: Path, out: Path | str, say: Say, options: LogOptions | None = None) -> dict[str, Any]:
    """Reads the described log and writes `out`, a folder or a URL; returns the report.

    Raises ConfigError or DataError for bad input, and then leaves nothing. Finished tasks are kept in a folder beside `out`
    until the end: the next run after a killed one resumes there.
    """
    options, progress = (options or LogOptions()).checked(), Progress.of(say)
    output = output_of(out)
    spec = load_spec(description)
    output.refuse_existing(options)
    check_options(spec, options)
    base = None
    if options.like is not None:
        base = Base.open(options.like)
        check_description(spec, base)
        _check_anew(options.anew, spec)
        if not (options.whole or options.for_scores):
            for note in full_tables(spec, base):
                progress(note)
    sources = FoundFiles.of(spec, description.parent)
    if base is not None and not options.whole:
        sources = _later(sources, description.parent, base, progress)
    engine = KINDS[options.engine](options.processes)
    try:
        fingerprint = _fingerprint(spec, sources, base, options)
        with closing(output.open_work(options, fingerprint, engine, progress)) as work:
            if work.goes_on:
                progress(f"going on in {work}, which an earlier run of the same description left")
            try:
                report = _Preparation(spec, description.parent, work, options, engine.processes, base).all(sources, output)
            except Gone:
                work.remove()  # else the next run takes the rest for whole
                raise
            work.remove()
            return report
    except OSError as error:
        raise output.unwritten(error, options) from None
    finally:
        engine.close()


def _check_anew(names: Sequence[str], spec: LogSpec) -> None:
    known = finish.statistic_names(spec) + [x.name for x in spec.label if x.kind != "binary"]
    for name in names:
        if name not in known:
            raise ConfigError(
                f"--anew {name}: no statistic of the description, nor a label that is not binary; there are: "
                f"{', '.join(known) or 'none'}"
            )


def _later(sources: FoundFiles, folder: Path, base: Base, progress: Progress) -> FoundFiles:
    are_new = new_files(sources.log, [named_in(str(p), folder) for p in sources.log], base)
    if not all(are_new):
        progress(f"{are_new.count(False):,} of {len(are_new):,} files were read for {base.folder}")
    return sources.only(are_new)


def _fingerprint(spec: LogSpec, sources: FoundFiles, base: Base | None, options: LogOptions) -> dict[str, Any]:
    resolved = [file.resolve() for file in sources.files]
    files = [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in resolved]
    chosen = {
        n: getattr(options, n)
        for n in ("whole", "anew", "hold_out", "last_day", "allow_gap", "skip_late", "for_scores", "keep")
    }
    return {
        "version": __version__,
        "arrow": pa.__version__,
        "description": spec.model_dump(mode="json"),
        "files": files,
        "base": None if base is None else base.fingerprint(),
        "options": chosen,
    }


@dataclass(frozen=True)
class _Scanned:
    """The log, after each of its chunks has been read."""

    sources: FoundFiles
    inputs: LogInputs
    plan: Plan
    chunks: Sequence[Chunk]
    folders: Sequence[Path]
    """Of the chunks."""
    days: Days
    rows: int
    """Of the days to read."""


@dataclass(frozen=True)
class _Made:
    """What was made of it, by partition of users, and what was fitted on all of them."""

    gathered: Sequence[Path]
    seen: Sequence[pa.Table]
    """As Told has it."""
    encoded: Sequence[Path]
    fitted: Fitted
    labels: Mapping[str, Summary]
    """Those that are not binary."""


class _Preparation:
    def __init__(self, spec: LogSpec, folder: Path, work: Work, options: LogOptions, processes: int, base: Base | None):
        """folder: where the description lies; base: whose numbers are taken."""
        self.spec, self.folder, self.work, self.options, self.processes = spec, folder, work, options, processes
        self.base = base
        self.told_before = {} if base is None else read_json(base.folder / "report.json", "Restore it.", DataError)
        """The base's report, empty if it has none."""
        self.goes_on = None if options.whole else base
        """The base, if its past is taken too."""

    def all(self, sources: FoundFiles, out: Output) -> dict[str, Any]:
        try:
            log = self._read(sources)
        except (Lost, StoreError):
            raise
        except UserError:
            self.work.remove()  # useless once the input is corrected
            raise
        plan, rows = log.plan, log.rows
        each = [rows * (n + 1) // plan.parts - rows * n // plan.parts for n in range(plan.parts)]
        before = earlier.route(plan, self.goes_on, self.work) if self.goes_on is not None else Earlier.nothing(plan)
        before = self._with_given_events(log, before)
        gathered = self._gather(log, each, before)
        labels = summarise(plan, gathered, self.work, rows, self.base, self.options.anew)
        grow = not (self.options.whole or self.options.for_scores)
        fitted = fit(plan, self.base, self.goes_on, log.days, gathered, self.work, grow, self.options.memory)
        encoded = self.work.run(
            "encode",
            "encoding",
            [
                Task(partial(encode, plan, fitted, n, g, before.events), size)
                for n, (g, size) in enumerate(zip(gathered, each, strict=True))
            ],
        )
        self.work.drop("gather")
        self.work.drop("earlier")
        for number in log.inputs.events:
            self.work.drop(f"events-{number}")
        seen = [pq.read_table(here(f / SEEN_FILE)) for f in gathered]
        return self._write(log, _Made(gathered, seen, encoded, fitted, labels), out)

    def _read(self, sources: FoundFiles) -> _Scanned:
        """Runs the steps that can find fault with the input."""
        spec, work, options = self.spec, self.work, self.options
        inputs = open_log(spec, sources, work, self.base, options.keep, not options.for_scores)
        if spec.order is not None and (note := order_note([self._short(f.named) for f in inputs.files])):
            work.progress(note)
        share, rows = options.memory // self.processes, inputs.rows
        held = rows + sum(f.rows for files, _ in inputs.events.values() for f in files)
        held += 0 if self.goes_on is None else earlier.left_rows(spec, self.goes_on)
        parts = options.partitions or partitions(spec, inputs.types, held, share, self.processes)
        plan = Plan(
            spec,
            inputs.log_types,
            inputs.types,
            inputs.sides,
            work.choose("partitions", min(parts, CELLS)),
            None if self.goes_on is None else spec.start_ms(self.goes_on.record.end_day),
            None if options.last_day is None else spec.start_ms(options.last_day + 1),
            options.hold_out or 0.0,
            options.keep,
            piece_rows(spec, share),
            clock_of(spec, inputs.files),
            not options.by_users and isinstance(spec.split, RandomSplit | ColumnSplit),
        )
        chunk = work.choose("chunk", chunk_rows(inputs.log_types, rows, share, self.processes))
        work.progress(
            f"{spec.log}: {rows:,} rows in {len(inputs.files)} files, {len(spec.side)} side tables | {plan.parts} partitions, "
            f"{self.processes} processes"
        )
        chunks = [replace(c, place=self._short(c.file.named)) for c in chunks_of(inputs.files, chunk)]
        scanned = work.run("scan", "reading", [Task(partial(scan.scan, plan, c), c.last - c.first) for c in chunks])
        read_days = pa.concat_tables([pq.read_table(here(f / scan.DAYS)) for f in scanned])
        new = read_days.column("day").to_numpy()
        end = int(new.max(initial=0)) + 1
        if self.goes_on is not None:
            read = read_by_file(chunks, scanned, self._named(inputs), max(end, self.goes_on.record.end_day))
            gap = options.allow_gap or options.for_scores
            for line in check_days(read, new.tolist(), self.goes_on, gap, options.skip_late):
                work.progress(f"note: {line}")
        elif not len(new):
            raise DataError(f"{spec.log}: holds no rows up to {day_name(options.last_day or 0)}. Give a later --last-day.")
        days = finish.one_part(plan, new) if options.by_users else finish.days_of(plan, new)
        if plan.own_parts:
            check_parts(spec, [pq.read_table(here(f / scan.PARTS)) for f in scanned])
        return _Scanned(sources, inputs, plan, chunks, scanned, days, pc.sum(read_days.column("rows")).as_py() or 0)

    def _with_given_events(self, log: _Scanned, before: Earlier) -> Earlier:
        """With the events of other tables, in the users' partitions."""
        events = list(before.events)
        for number, (files, types) in log.inputs.events.items():
            # A row of lists may hold many events.
            most = _NESTED_ROWS if self.spec.history[number].given.column is not None else self.work.choose("chunk", 0)
            chunks = chunks_of(files, most)
            tasks = [Task(partial(scan_events, log.plan, number, c, types), c.last - c.first) for c in chunks]
            name = self.spec.history[number].name
            events[number] = tuple(f / EVENTS for f in self.work.run(f"events-{number}", f"reading events of {name}", tasks))
        return replace(before, events=tuple(events))

    def _named(self, inputs: LogInputs) -> dict[int, str]:
        return {f.index: self._short(f.named) for f in inputs.files}

    def _gather(self, log: _Scanned, each: Sequence[int], before: Earlier) -> list[Path]:
        """each: approximate rows of each partition; before: what the preparation before left."""
        plan, scanned, days, back = log.plan, log.folders, log.days, []
        for key, by in enumerate(plan.elsewhere):
            spilled = [f / scan.keyed(key) for f in scanned]
            tasks = [
                Task(partial(past.count_keyed, plan, key, n, spilled, before.elsewhere[key], days.end_ms), rows)
                for n, rows in enumerate(each)
            ]
            counted = self.work.run(f"past-{key}", f"counting by {', '.join(by)}", tasks)
            back.append([file for folder in counted for file in past.back_files(folder)])
        if plan.rates:
            spilled = [f / scan.TIMES for f in scanned]
            hours = finish.hours_before(self._hourly(plan, each, scanned), self._everyone_before())
            tasks = [Task(partial(past.count_everyone, plan, n, spilled, hours), rows) for n, rows in enumerate(each)]
            back.append([f / past.BACK for f in self.work.run("everyone", "base rates", tasks)])
        users = [f / scan.USERS for f in scanned]
        tasks = [Task(partial(gather, plan, days, n, users, back, before.own), rows) for n, rows in enumerate(each)]
        gathered = self.work.run("gather", "what was known before", tasks)
        for stage in ("scan", *(f"past-{key}" for key in range(len(plan.elsewhere))), "everyone"):
            self.work.drop(stage)
        return gathered

    def _hourly(self, plan: Plan, each: Sequence[int], scanned: Sequence[Path]) -> Sequence[Path]:
        """Folders with sums of labels by hour."""
        if self.spec.repeated != "merge":
            return scanned
        spilled = [f / scan.TIMES for f in scanned]
        tasks = [Task(partial(past.sum_hours, plan, n, spilled), rows) for n, rows in enumerate(each)]
        return self.work.run("hours", "hours", tasks)

    def _everyone_before(self) -> dict[str, tuple[int, int]]:
        return {} if self.goes_on is None else self.goes_on.record.everyone

    def _short(self, file: str) -> str:
        return named_in(file, self.folder)

    def _write(self, log: _Scanned, made: _Made, out: Output) -> dict[str, Any]:
        """Writes `out` and returns its report."""
        labels, asked = finish.label_days(made.gathered), finish.statistic_names(self.spec)
        statistics = finish.statistics(log.plan, made.encoded, asked, self.base, self.options.anew)
        kept = [feature for _, feature in statistics.values() if feature is not None]
        facts = {name: values for name, summary in made.labels.items() if (values := values_of(summary)) is not None}
        schema = finish.schema_of(log.plan, made.fitted, kept, labels, facts, self.base)
        places, written = self._write_parts(made, schema)
        for line in () if self.base is None else finish.unfitted(statistics, self.base, self.options.anew):
            self.work.progress(f"note: {line}")
        for line in () if self.base is None else finish.unfitted_labels(made.labels, self.base, self.options.anew):
            self.work.progress(f"note: {line}")
        told = {n: (seen, f) for n, (seen, f) in statistics.items() if seen is not None and f is not None}
        report = self._report(log, made, labels, schema, told)
        with out.whole(self.work) as opened:
            for place, path in zip(places, written, strict=True):
                opened.add(path / finish.PART, place)
            opened.add_folder(self.work.folder / "vocabularies")
            save_schema(schema, opened.folder / "schema.toml")
            if self.options.leave_state and self.spec.time is not None:
                self._leave(log, made, opened)
            write_json(opened.folder / "report.json", report)
        return report

    def _write_parts(self, made: _Made, schema: Schema) -> tuple[list[str], list[Path]]:
        """(places in the data folder, folders with the files) of the splits' files."""
        columns = finish.stored_columns(made.encoded[0], schema)
        tasks, places = [], []
        for index, split in enumerate(SPLITS):
            counts = [t.column("rows")[index].as_py() for t in made.seen]
            if index and (self.options.by_users or isinstance(self.spec.split, RandomSplit | ColumnSplit)) and not sum(counts):
                continue
            files = finish.split_files(made.encoded, counts, index)
            bounds = file_bounds(sum(counts), self.spec.train_files if index == 0 else 1)
            for number, (first, last) in enumerate(zip(bounds, bounds[1:], strict=False)):
                tasks.append(Task(partial(finish.write_part, files, columns, first, last), last - first))
                places.append(f"{split}/{part_name(number)}")
        return places, self.work.run("write", "writing", tasks)

    def _report(
        self,
        log: _Scanned,
        made: _Made,
        labels: pa.Table,
        schema: Schema,
        statistics: dict[str, tuple[Counted, StatisticFeature]],
    ) -> dict[str, Any]:
        """labels: sums by day; statistics: those with values, and their features."""
        spec, fitted, scanned = self.spec, made.fitted, log.folders
        old = [{**entry, "file": self._short(entry["file"])} for entry in finish.rows_before(log.days, log.chunks, scanned)]
        absent = {name: list(map(self._short, files)) for name, files in log.inputs.absent.items()}
        report = make_report(
            Told(
                log=spec.log,
                rows=log.rows,
                unmatched=finish.unmatched(scanned),
                days=fitted.days,
                labels=labels,
                others={name: summary["told"] for name, summary in made.labels.items()},
                left=LeftOut(old, absent),
                extremes=extremes(scanned, [self._short(str(p)) for p in log.sources.every], FILE_BITS),
                seen=made.seen,
                repeated=[pq.read_table(here(f / REPEATED_FILE)) for f in made.gathered],
                merged=spec.repeated == "merge",
                ids=[pq.read_table(here(f / FOUND_FILE)) for f in made.encoded],
                vocabularies={p.stem: pq.read_metadata(p).num_rows + 1 for p in fitted.vocabularies},
                schema=schema,
                statistics=statistics,
                steps={n.column: fitted.steps[n.column] for n in spec.number if n.column in statistics},
                asked=finish.statistic_names(spec),
            )
        )
        if self.base is not None:
            known = pa.concat_tables([pq.read_table(here(f / BASE_FOUND_FILE)).slice(0, 1) for f in made.encoded])
            to_base = {n: int(pc.sum(known.column(n)).as_py()) for n in known.column_names}
            growing = finish.growing(spec)
            report["base"] = drift(self.told_before, report, str(self.base.folder), to_base, self.options.for_scores, growing)
            report["vocabularies_grown"] = {n: vars(g) for n, g in fitted.grown.items()}
        return report

    def _leave(self, log: _Scanned, made: _Made, opened: OpenOutput) -> None:
        """Writes the state of the output."""
        files = earlier.left_files(log.plan, self.work.folder, made.gathered, made.encoded)
        files |= {state.rare_file(n): path for n, path in enumerate(made.fitted.rare)}
        read = read_by_file(log.chunks, log.folders, self._named(log.inputs), log.days.end)
        before = self.goes_on.record if self.goes_on is not None else None
        there = {self._short(str(path)) for path in log.sources.every}
        everyone = finish.everyone(log.plan, made.gathered, self._everyone_before())
        record = earlier.record_of(log.plan, made.fitted, read, before, everyone, there)
        write_state(opened.folder, record, files, opened.add)
