"""All steps in order: a described log -> splits with schema, vocabularies and report.

Each step is a list of independent tasks over parts of the log (chunks of files, partitions of users, of keys, of hours). A task
reads Arrow tables and writes Arrow tables. The result does not depend on how the log was cut, on the number of processes, or
on the engine: rows are ordered by their users' hashes, counts are integers, and floats are summed in a fixed order.
"""

import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from home_dist import __version__
from home_dist.errors import DataError, UserError
from home_dist.files.json_files import write_json
from home_dist.files.whole import refuse_existing, whole_folder
from home_dist.prepare.counts import LeftOut, Told, make_report
from home_dist.prepare.days import SPLITS, Days
from home_dist.prepare.engine import KINDS, Lost, Task, Work
from home_dist.prepare.generic import finish, past, scan
from home_dist.prepare.generic.encode import FOUND_FILE, Fitted, encode
from home_dist.prepare.generic.largest_values import extremes
from home_dist.prepare.generic.log_files import Chunk, chunks_of
from home_dist.prepare.generic.log_inputs import FoundFiles, LogInputs, open_log
from home_dist.prepare.generic.log_plan import CELLS, Plan
from home_dist.prepare.generic.log_spec import LogSpec, load_spec
from home_dist.prepare.generic.partition import REPEATED_FILE, SEEN_FILE, gather
from home_dist.prepare.generic.sizes import chunk_rows, partitions
from home_dist.prepare.progress import Progress, Say
from home_dist.prepare.write import file_bounds, part_name
from home_dist.schema import save_schema

MEMORY_BYTES = 2 << 30


@dataclass(frozen=True)
class LogOptions:
    engine: str = "local"
    """Or "ray"."""
    processes: int = 1
    memory: int = MEMORY_BYTES
    """Approximate bytes that all processes together may take; what does not fit waits on disk."""
    partitions: int | None = None
    """By default chosen from `memory`."""


def prepare_log(description: Path, out: Path, say: Say, options: LogOptions | None = None) -> dict[str, Any]:
    """Reads the described log and writes `out`; returns the report.

    Raises ConfigError or DataError for bad input, and then leaves nothing. Finished tasks are kept in a folder beside `out`
    until the end: the next run after a killed one resumes there.
    """
    options, progress = options or LogOptions(), Progress.of(say)
    spec = load_spec(description)
    refuse_existing(out)
    sources = FoundFiles.of(spec, description.parent)
    engine = KINDS[options.engine](options.processes)
    try:
        with closing(Work(out.with_name(out.name + ".work"), _fingerprint(spec, sources), engine, progress)) as work:
            if work.goes_on:
                progress(f"going on in {work.folder}, which an earlier run of the same description left")
            report = _Preparation(spec, description.parent, work, options, engine.processes).all(sources, out)
            work.remove()
            return report
    except OSError as error:
        raise DataError(
            f"{out}: cannot be written: {error}. Make room, or choose another folder; the same command then goes on."
        ) from None
    finally:
        engine.close()


def _fingerprint(spec: LogSpec, sources: FoundFiles) -> dict[str, Any]:
    resolved = [p.resolve() for table_paths in (sources.log, *sources.sides) for p in table_paths]
    files = [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in resolved]
    return {"version": __version__, "arrow": pa.__version__, "description": spec.model_dump(mode="json"), "files": files}


class _Preparation:
    def __init__(self, spec: LogSpec, folder: Path, work: Work, options: LogOptions, processes: int):
        """folder: where the description lies."""
        self.spec, self.folder, self.work, self.options, self.processes = spec, folder, work, options, processes

    def all(self, sources: FoundFiles, out: Path) -> dict[str, Any]:
        try:
            plan, inputs, chunks, scanned, days = self._read(sources)
        except Lost:
            raise
        except UserError:
            self.work.remove()  # useless once the input is corrected
            raise
        rows = inputs.rows
        each = [rows * (n + 1) // plan.parts - rows * n // plan.parts for n in range(plan.parts)]
        gathered = self._gather(plan, each, scanned, days)
        fitted = self._fit(plan, days, gathered)
        encoded = self.work.run(
            "encode", "encoding", [Task(partial(encode, plan, fitted, g), n) for g, n in zip(gathered, each, strict=True)]
        )
        self.work.drop("gather")
        before = [{**entry, "file": self._short(entry["file"])} for entry in finish.rows_before(days, chunks, scanned)]
        left_out = LeftOut(before, {name: list(map(self._short, files)) for name, files in inputs.absent.items()})
        return self._write(plan, inputs, left_out, scanned, gathered, encoded, fitted, out)

    def _read(self, sources: FoundFiles) -> tuple[Plan, LogInputs, list[Chunk], list[Path], Days]:
        """Runs the steps that can find fault with the input."""
        spec, work = self.spec, self.work
        inputs = open_log(spec, sources, work)
        share, rows = self.options.memory // self.processes, inputs.rows
        parts = self.options.partitions or partitions(spec, inputs.types, rows, share, self.processes)
        plan = Plan(spec, inputs.log_types, inputs.types, inputs.sides, work.choose("partitions", min(parts, CELLS)))
        chunk = work.choose("chunk", chunk_rows(inputs.log_types, rows, share, self.processes))
        work.progress(
            f"{spec.log}: {rows:,} rows in {len(inputs.files)} files, {len(spec.side)} side tables | {plan.parts} partitions, "
            f"{self.processes} processes"
        )
        chunks = chunks_of(inputs.files, chunk)
        scanned = work.run("scan", "reading", [Task(partial(scan.scan, plan, c), c.last - c.first) for c in chunks])
        return plan, inputs, chunks, scanned, finish.days_of(plan, scanned)

    def _gather(self, plan: Plan, each: Sequence[int], scanned: Sequence[Path], days: Days) -> list[Path]:
        """each: approximate rows of each partition."""
        back = []
        for key, by in enumerate(plan.elsewhere):
            spilled = [f / scan.keyed(key) for f in scanned]
            tasks = [Task(partial(past.count_keyed, plan, key, n, spilled), rows) for n, rows in enumerate(each)]
            back.append([f / past.BACK for f in self.work.run(f"past-{key}", f"counting by {', '.join(by)}", tasks)])
        if plan.rates:
            spilled, hourly = [f / scan.TIMES for f in scanned], scanned
            if self.spec.repeated == "merge":
                tasks = [Task(partial(past.sum_hours, plan, n, spilled), rows) for n, rows in enumerate(each)]
                hourly = self.work.run("hours", "hours", tasks)
            hours = finish.hours_before(hourly)
            tasks = [Task(partial(past.count_everyone, plan, n, spilled, hours), rows) for n, rows in enumerate(each)]
            back.append([f / past.BACK for f in self.work.run("everyone", "base rates", tasks)])
        users = [f / scan.USERS for f in scanned]
        tasks = [Task(partial(gather, plan, days, n, users, back), rows) for n, rows in enumerate(each)]
        gathered = self.work.run("gather", "what was known before", tasks)
        for stage in ("scan", *(f"past-{key}" for key in range(len(plan.elsewhere))), "everyone"):
            self.work.drop(stage)
        return gathered

    def _fit(self, plan: Plan, days: Days, gathered: Sequence[Path]) -> Fitted:
        folder = self.work.folder / "vocabularies"
        folder.mkdir(exist_ok=True)
        paths = []
        for number, section in enumerate(self.spec.id):
            paths.append(folder / f"{section.column}.parquet")
            finish.fit_vocabulary(plan, gathered, number, paths[-1])
        labels = finish.label_days(gathered)
        rows = pc.sum(labels.column("rows")).as_py()
        known = {x.name: pc.sum(labels.column(f"known_{x.name}")).as_py() == rows for x in self.spec.label}
        return Fitted(days, tuple(paths), finish.fit_steps(gathered, self._statistics()), known)

    def _short(self, file: str) -> str:
        """The path relative to the description's folder: the report is then the same wherever the folder lies."""
        return str(Path(file).relative_to(self.folder)) if Path(file).is_relative_to(self.folder) else file

    def _statistics(self) -> list[str]:
        """Names of all statistics, in the order of the description."""
        names = [n.column for n in self.spec.number]
        for section in self.spec.past:
            names += [f"{section.prefix}_count", *(f"{section.prefix}_{r}" for r in section.rates)]
        return names

    def _write(
        self,
        plan: Plan,
        inputs: LogInputs,
        left_out: LeftOut,
        scanned: Sequence[Path],
        gathered: Sequence[Path],
        encoded: Sequence[Path],
        fitted: Fitted,
        out: Path,
    ) -> dict[str, Any]:
        spec, labels = self.spec, finish.label_days(gathered)
        statistics = finish.statistics(plan, encoded, self._statistics())
        schema = finish.schema_of(plan, fitted, [feature for _, feature in statistics.values()], labels)
        seen = [pq.read_table(f / SEEN_FILE) for f in gathered]
        columns = finish.stored_columns(encoded[0], schema)
        tasks, places = [], []
        for index, split in enumerate(SPLITS):
            counts = [t.column("rows")[index].as_py() for t in seen]
            files = finish.split_files(encoded, counts, index)
            bounds = file_bounds(sum(counts), spec.train_files if index == 0 else 1)
            for number, (first, last) in enumerate(zip(bounds, bounds[1:], strict=False)):
                tasks.append(Task(partial(finish.write_part, files, columns, first, last), last - first))
                places.append(f"{split}/{part_name(number)}")
        written = self.work.run("write", "writing", tasks)
        report = make_report(
            Told(
                log=spec.log,
                rows=inputs.rows,
                unmatched=finish.unmatched(scanned),
                days=fitted.days,
                labels=labels,
                left=left_out,
                extremes=extremes(scanned, [self._short(f.named) for f in inputs.files], scan.FILE_BITS),
                seen=seen,
                repeated=[pq.read_table(f / REPEATED_FILE) for f in gathered],
                merged=spec.repeated == "merge",
                ids=[pq.read_table(f / FOUND_FILE) for f in encoded],
                vocabularies={p.stem: pq.read_metadata(p).num_rows + 1 for p in fitted.vocabularies},
                schema=schema,
                statistics=statistics,
                steps={n.column: fitted.steps[n.column] for n in spec.number if n.column in statistics},
                asked=self._statistics(),
            )
        )
        with whole_folder(out) as folder:
            for place, path in zip(places, written, strict=True):
                (folder / place).parent.mkdir(exist_ok=True)
                # Linked, not moved: if the run is killed here, the next one still finds the files in the work folder.
                (folder / place).hardlink_to(path / finish.PART)
            shutil.copytree(self.work.folder / "vocabularies", folder / "vocabularies")
            save_schema(schema, folder / "schema.toml")
            write_json(folder / "report.json", report)
        return report
