"""`home-dist prepare`: commands that make a data folder."""

import os
import tempfile
from datetime import date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from home_dist.cli.command import command
from home_dist.errors import UserError

_EPOCH = date(1970, 1, 1).toordinal()


class _LogByDefault(typer.core.TyperGroup):
    """`prepare LOG.toml OUT` is `prepare log LOG.toml OUT`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        known = args and (args[0] in self.commands or args[0].startswith("-"))
        return super().resolve_command(ctx, args if known else ["log", *args])


group = typer.Typer(
    cls=_LogByDefault, no_args_is_help=True, help="Make a data folder: of a described log, of Parquet files, or generated."
)


class EngineKind(StrEnum):
    local = "local"
    ray = "ray"


@command(group, "log")
def prepare_described(
    description: Annotated[Path, typer.Argument(help="TOML file that describes a log; prepare init proposes one.")],
    out: Annotated[str, typer.Argument(help="Folder or URL to write; it must not hold anything yet.")],
    engine: Annotated[EngineKind, typer.Option(help="local: processes of this machine; ray: a cluster.")] = EngineKind.local,
    processes: Annotated[int | None, typer.Option(min=1, help="Tasks at a time; by default one per core.")] = None,
    memory: Annotated[float, typer.Option(min=0.1, help="GB for all processes together, about; the rest is on disk.")] = 2.0,
    like: Annotated[
        Path | None,
        typer.Option(help="Data prepared before, or an export: go on from its last day, with its numbers and what it left."),
    ] = None,
    whole: Annotated[bool, typer.Option("--whole", help="With --like: read the whole log, with its numbers alone.")] = False,
    anew: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="With --like: fit a statistic, or a label that is no yes or no, again; several times."
        ),
    ] = None,
    hold_out: Annotated[
        float | None,
        typer.Option(help="Share of users, others each day, for validation; all days are for training. 0 with --like."),
    ] = None,
    skip_late: Annotated[
        bool, typer.Option("--skip-late", help="With --like: leave out rows of days that it holds without them.")
    ] = False,
    allow_gap: Annotated[bool, typer.Option("--allow-gap", help="With --like: days may be missing in between.")] = False,
    last_day: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="The last day to read; by default the log's last.")
    ] = None,
    state: Annotated[bool, typer.Option(help="Leave what --like can go on from, in OUT/state.")] = True,
    page: Annotated[bool, typer.Option(help="Draw OUT/report.html: some 0.1 s per statistic.")] = True,
    work: Annotated[
        str | None,
        typer.Option(help="URL of the work folder, for Ray nodes that share no disk; by default OUT.work, where OUT is."),
    ] = None,
) -> None:
    """Turn a log of impressions into a data folder: labels, as-of statistics, histories, vocabularies, splits by day.

    With --like, later days are prepared as an earlier folder was: ids keep their rows and new ones get rows behind them,
    boundaries stay, counts and histories go on. All of it goes to train/, or with --hold-out to train/ and validation/.

    The log is cut into partitions, and may be larger than memory. A run that was killed goes on where it stopped, by the same
    command.
    """
    from home_dist.files.places import join, without_secrets
    from home_dist.prepare.generic import LogOptions, prepare_log
    from home_dist.prepare.progress import Progress
    from home_dist.prepare.summary import part_lines

    options = LogOptions(
        engine=engine.value,
        processes=processes or len(os.sched_getaffinity(0)),
        memory=int(memory * 1e9),
        like=like,
        whole=whole,
        anew=tuple(anew or ()),
        hold_out=hold_out,
        allow_gap=allow_gap,
        skip_late=skip_late,
        last_day=None if last_day is None else last_day.toordinal() - _EPOCH,
        leave_state=state,
        work=work,
    )
    report = prepare_log(description, out, Progress(), options)
    told = without_secrets(out)
    if page:
        _write_page(report, out)
    for line in part_lines(report):
        print(line)
    print(f"written to {told}" + (f"; {join(told, 'report.html')} shows rows, labels and features" if page else ""))


def _write_page(report: dict[str, Any], out: str) -> None:
    from home_dist.files.places import is_remote, join
    from home_dist.files.remote import put
    from home_dist.insight.prepared_page import write_page

    if not is_remote(out):
        write_page(report, Path(out) / "report.html")
        return
    with tempfile.TemporaryDirectory() as folder:
        write_page(report, Path(folder) / "report.html")
        put(Path(folder) / "report.html", join(out, "report.html"))


@command(group, "init")
def prepare_init(
    log: Annotated[str, typer.Argument(help="Path, pattern or URL of the log's files, in quotes.")],
    out: Annotated[Path, typer.Option(help="The description to write.")] = Path("mylog.toml"),
) -> None:
    """Propose a description of a log from a look at its files: to be read and corrected, then prepared."""
    from home_dist.prepare.proposal import propose

    print(propose(log, out))


@command(group, "convert")
def prepare_converted(
    source: Annotated[Path, typer.Argument(help="pipeline.config of TorchEasyRec, or dataset_config.yaml of FuxiCTR.")],
    out: Annotated[Path, typer.Option(help="The draft to write.")] = Path("draft.toml"),
    dataset: Annotated[str | None, typer.Option(help="Entry of dataset_config.yaml, where it has several.")] = None,
) -> None:
    """Write what another library's configuration says of columns as a draft for `prepare fit`, and name what it leaves out."""
    from home_dist.prepare.convert import convert

    conversion = convert(source, dataset)
    if out.exists():
        raise UserError(f"{out}: is there already. Remove it, or give another --out.")
    conversion.write(out)
    for note in conversion.notes:
        print(f"note: {note}")
    print(f"written to {out}: read it and correct it, then: home-dist prepare fit {out} DATA")


@command(group, "fit")
def prepare_fit(
    draft: Annotated[
        Path, typer.Argument(help="TOML file that says what the columns are and how to fit; docs/howto/schema.md shows one.")
    ],
    data: Annotated[Path, typer.Argument(help="Folder with train/*.parquet; schema.toml and vocabularies/ are written to it.")],
    memory: Annotated[float, typer.Option(min=0.5, help="GB for counts of keys, about; the rest is on disk.")] = 2.0,
) -> None:
    """Fit vocabularies, boundaries and scales on the training part of Parquet files of your own, in one pass."""
    from home_dist.prepare.fit import fit_data
    from home_dist.prepare.progress import Progress

    schema = fit_data(draft, data, Progress(), memory=int(memory * 1e9))
    for table in schema.table:
        print(f"table {table.name}: {table.rows:,} rows")
    print(f"written to {data / 'schema.toml'}")


@command(group, "synthetic")
def prepare_synthetic(
    out: Annotated[Path, typer.Argument(help="Folder to write; it must not hold anything yet.")],
    rows: Annotated[int, typer.Option(help="Impressions, of all splits together.")] = 100_000,
    users: Annotated[int, typer.Option(help="Users.")] = 10_000,
    items: Annotated[int, typer.Option(help="Items.")] = 100_000,
    max_history: Annotated[int, typer.Option(help="Events of the longest history; the median is 30.")] = 1000,
    vector_width: Annotated[int, typer.Option(help="Width of pre-trained vectors.")] = 32,
    rows_per_file: Annotated[int, typer.Option(help="Impressions per Parquet file.")] = 100_000,
    seed: Annotated[int, typer.Option(help="The same seed and sizes give the same bytes.")] = 0,
    watch_times: Annotated[
        bool, typer.Option("--watch-times", help="One more task: seconds watched, planted in durations and tastes.")
    ] = False,
) -> None:
    """Generate a log of any size: Zipf-distributed ids, long histories, every kind of feature, planted groups of tasks."""
    from home_dist.prepare.progress import Progress
    from home_dist.prepare.synthetic import Sizes, write_synthetic

    sizes = Sizes(rows, users, items, max_history, vector_width, rows_per_file, seed, watch_times)
    write_synthetic(out, sizes, Progress())
    print(f"written to {out}")


@command(group, "frozen")
def prepare_frozen(
    source: Annotated[Path, typer.Argument(help="Parquet file, or a folder of them, with a row per item.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; a feature's `frozen` names it.")],
    key: Annotated[str, typer.Option(help="Column of item ids.")],
    vector: Annotated[str, typer.Option(help="Column of vectors, lists of equally many numbers.")],
    half: Annotated[bool, typer.Option(help="Store float16.")] = False,
) -> None:
    """Write vectors of items as a frozen table, which all ranks of a host read from one memory-mapped copy."""
    from home_dist.prepare.frozen import write_frozen
    from home_dist.prepare.progress import Progress

    rows, width = write_frozen(source, key, vector, out, half, Progress())
    print(f"{rows:,} vectors of width {width} written to {out}")
