"""home-dist: train, evaluate, inspect, checkpoints, doctor and the rest."""

import json
import logging
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
import typer.core

from home_dist import process
from home_dist.config import RunConfig, load_config
from home_dist.errors import UserError

Result = TypeVar("Result")

_SECONDS_FOR_THE_FIRST_RANK = 20.0

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. train.batch_size=4096.")
]


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="TOML file of the run.")],
    overrides: Overrides = None,
    warm_start: Annotated[
        Path | None,
        typer.Option(
            "--from", help="A checkpoint or run.dir that a new run begins with; section checkpoint.warm_start says more."
        ),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Trace some steps, and tell where their time went and what exchange was hidden.")
    ] = False,
    profile_steps: Annotated[int, typer.Option(min=1, help="How many, with --profile.")] = 10,
) -> None:
    """Train a model. The same command goes on with a run that was interrupted."""

    def body() -> None:
        begin = [f"checkpoint.warm_start.from={json.dumps(str(warm_start))}"] if warm_start else []
        settings = _settings(config, [*(overrides or []), *begin])
        from home_dist.training import commands, ranks

        commands.train(settings, ranks.form_ranks(settings.distributed), profile_steps if profile else 0)

    _run(body)


@app.command()
def bench(
    config: Annotated[Path, typer.Argument(help="TOML file of the run.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps that are timed.")] = 50,
    warm_up: Annotated[int, typer.Option(min=1, help="Steps before them.")] = 10,
    traced: Annotated[int, typer.Option(min=1, help="Steps after them, which the profiler looks at.")] = 5,
    out: Annotated[Path | None, typer.Option("--json", help="File for all figures.")] = None,
    overlap: Annotated[bool, typer.Option(help="Exchange ids beside the step before, as training does.")] = True,
    overrides: Overrides = None,
) -> None:
    """Time training: samples/s, percentiles of steps, where they go, memory, launches, FLOPs, bytes, share of the limits."""

    def body() -> None:
        settings = _settings(config, overrides)
        from home_dist.speed import command
        from home_dist.training import ranks

        command.bench(settings, ranks.form_ranks(settings.distributed), warm_up, steps, traced, out, overlap)

    _run(body)


@app.command()
def plan(
    config: Annotated[Path, typer.Argument(help="TOML file of the run. Its data need not be there, its schema must.")],
    topology: Annotated[str, typer.Option(help="COUNTxKIND of devices, e.g. 64xH100-80GB.")],
    hosts: Annotated[int | None, typer.Option(min=1, help="By default as many as devices of this kind come in.")] = None,
    devices: Annotated[Path | None, typer.Option(help="TOML file of more kinds of devices.")] = None,
    mean_length: Annotated[
        list[str] | None, typer.Option(metavar="NAME=NUMBER", help="Ids per sample of a list feature or a sequence.")
    ] = None,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="All figures as JSON.")] = False,
) -> None:
    """Tell what a run would need on devices that are not here: plan, memory, traffic, time, and what bounds it."""

    def body() -> None:
        notes: list[str] = []
        settings = load_config(config, overrides or [], notes)
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
        from home_dist.planning import command
        from home_dist.planning.topology import machines

        command.run(settings, machines(topology, hosts, devices), command.lengths_given(mean_length or []), as_json)

    _run(body)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="run.dir of a run.")],
    split: Annotated[list[str] | None, typer.Option(help="train, validation or test; may be given several times.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A checkpoint of the run, or RUN/best; by default the newest.")
    ] = None,
) -> None:
    """Evaluate a run's checkpoint, on any number of ranks."""

    def body() -> None:
        from home_dist.training import commands, ranks
        from home_dist.training.run_folder import RunFolder

        settings, _ = _alike_on_all_ranks(RunFolder(run).open)
        chosen = tuple(dict.fromkeys(split or ()))
        unknown = sorted(set(chosen) - {"train", "validation", "test"})
        if unknown:
            raise UserError(f"--split {unknown[0]}: allowed are train, validation, test")
        commands.evaluate_run(run, checkpoint, chosen, ranks.form_ranks(settings.distributed))

    _run(body)


@app.command()
def inspect(
    run: Annotated[Path, typer.Argument(help="run.dir of a run, which may still be training.")],
    compare: Annotated[Path | None, typer.Option(help="run.dir of another run, to be shown beside it.")] = None,
    against: Annotated[
        list[Path] | None, typer.Option(help="run.dir of single-task runs that no task should fall behind; several times.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The page; by default report.html in the run's folder.")] = None,
) -> None:
    """Write a page that shows what a run's experts do: findings, metrics, experts, gates, features, tables."""

    def body() -> None:
        from home_dist.insight.report import write_report

        page = write_report(run, compare, against or [], out or run / "report.html")
        print(f"report: {page}")

    _run(body)


@app.command()
def runs(folder: Annotated[Path, typer.Argument(help="Folder that runs lie in, at any depth.")] = Path("runs")) -> None:
    """List runs with their main figures."""

    def body() -> None:
        from home_dist.insight.overview import find_runs, runs_table
        from home_dist.training.tables import Screen

        found = find_runs(folder)
        if not found:
            raise UserError(f"{folder}: no run is in it. Name the folder that run.dir of your runs lie in.")
        Screen(True).table(runs_table(folder, found))

    _run(body)


@app.command()
def sweep(
    config: Annotated[Path, typer.Argument(help="TOML file of the run; its run.dir takes a folder per run.")],
    grid: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE,VALUE", help="Values to try; several are tried in all combinations.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each combination, with train.seed counted up.")] = 1,
    ranks: Annotated[int, typer.Option(help="Ranks of each run, on this machine.")] = 1,
    overrides: Overrides = None,
) -> None:
    """Train every combination of settings with several seeds, and tabulate mean and spread. Goes on where it was stopped."""

    def body() -> None:
        from home_dist.training import sweep as sweeps
        from home_dist.training.tables import Screen

        planned = sweeps.plan(config, grid or [], seeds, overrides or [])
        sweeps.sweep(config, planned, ranks, Screen(True))

    _run(body)


class _LogByDefault(typer.core.TyperGroup):
    """`prepare LOG.toml OUT` is `prepare log LOG.toml OUT`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        known = args and (args[0] in self.commands or args[0].startswith("-"))
        return super().resolve_command(ctx, args if known else ["log", *args])


prepare = typer.Typer(
    cls=_LogByDefault, no_args_is_help=True, help="Make a data folder: of a described log, of Parquet files, or generated."
)
app.add_typer(prepare, name="prepare")


@prepare.command("log")
def prepare_described(
    description: Annotated[Path, typer.Argument(help="TOML file that describes a log; README shows one.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; it must not hold anything yet.")],
    engine: Annotated[str, typer.Option(help="local: processes of this machine; ray: a cluster.")] = "local",
    processes: Annotated[int | None, typer.Option(min=1, help="Tasks at a time; by default one per core.")] = None,
    memory: Annotated[float, typer.Option(min=0.1, help="GB for all processes together, about; the rest is on disk.")] = 2.0,
) -> None:
    """Turn a log of impressions into a data folder: labels, as-of statistics, histories, vocabularies, splits by day.

    The log is cut into partitions, and may be larger than memory. A run that was killed goes on where it stopped, by the same
    command.
    """

    def body() -> None:
        from home_dist.insight.preparation import write_page
        from home_dist.prepare.engine import KINDS
        from home_dist.prepare.generic import Options, prepare_log
        from home_dist.prepare.progress import Progress
        from home_dist.prepare.summary import part_lines

        if engine not in KINDS:
            raise UserError(f"--engine {engine}: allowed are {', '.join(KINDS)}")
        options = Options(engine, processes or len(os.sched_getaffinity(0)), int(memory * 1e9))
        report = prepare_log(description, out, Progress(), options)
        write_page(report, out / "report.html")
        for line in part_lines(report):
            print(line)
        print(f"written to {out}; {out / 'report.html'} shows rows, labels and features")

    _run(body)


@prepare.command("fit")
def prepare_fit(
    draft: Annotated[Path, typer.Argument(help="TOML file that says what the columns are and how to fit; README shows one.")],
    data: Annotated[Path, typer.Argument(help="Folder with train/*.parquet; schema.toml and vocabularies/ are written to it.")],
) -> None:
    """Fit vocabularies, boundaries and scales on the training part of Parquet files of your own, in one pass."""

    def body() -> None:
        from home_dist.prepare.fit import fit_data
        from home_dist.prepare.progress import Progress

        schema = fit_data(draft, data, Progress())
        for table in schema.table:
            print(f"table {table.name}: {table.rows:,} rows")
        print(f"written to {data / 'schema.toml'}")

    _run(body)


@prepare.command("synthetic")
def prepare_synthetic(
    out: Annotated[Path, typer.Argument(help="Folder to write; it must not hold anything yet.")],
    rows: Annotated[int, typer.Option(help="Impressions, of all splits together.")] = 100_000,
    users: Annotated[int, typer.Option(help="Users.")] = 10_000,
    items: Annotated[int, typer.Option(help="Items.")] = 100_000,
    max_history: Annotated[int, typer.Option(help="Events of the longest history; the median is 30.")] = 1000,
    vector_width: Annotated[int, typer.Option(help="Width of pre-trained vectors.")] = 32,
    rows_per_file: Annotated[int, typer.Option(help="Impressions per Parquet file.")] = 100_000,
    seed: Annotated[int, typer.Option(help="The same seed and sizes give the same bytes.")] = 0,
) -> None:
    """Generate a log of any size: Zipf-distributed ids, long histories, every kind of feature, planted groups of tasks."""

    def body() -> None:
        from home_dist.prepare.progress import Progress
        from home_dist.prepare.synthetic import Sizes, write_synthetic

        sizes = Sizes(rows, users, items, max_history, vector_width, rows_per_file, seed)
        write_synthetic(out, sizes, Progress())
        print(f"written to {out}")

    _run(body)


@prepare.command("frozen")
def prepare_frozen(
    source: Annotated[Path, typer.Argument(help="Parquet file, or a folder of them, with a row per item.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; a feature's `frozen` names it.")],
    key: Annotated[str, typer.Option(help="Column of item ids.")],
    vector: Annotated[str, typer.Option(help="Column of vectors, lists of equally many numbers.")],
    half: Annotated[bool, typer.Option(help="Store float16.")] = False,
) -> None:
    """Write vectors of items as a frozen table, which all ranks of a host read from one memory-mapped copy."""

    def body() -> None:
        from home_dist.prepare.frozen import write_frozen
        from home_dist.prepare.progress import Progress

        rows, width = write_frozen(source, key, vector, out, half, Progress())
        print(f"{rows:,} vectors of width {width} written to {out}")

    _run(body)


@app.command()
def buckets(
    folder: Annotated[Path, typer.Argument(help="A data folder or a run.dir.")],
    feature: Annotated[list[str] | None, typer.Argument(help="Statistics; by default all.")] = None,
) -> None:
    """Show which values each bucket of a statistic holds."""

    def body() -> None:
        from home_dist.schema import StatisticFeature, load_schema

        known = {f.name: f for f in load_schema(folder / "schema.toml").feature if isinstance(f, StatisticFeature)}
        for name in feature or known:
            if name not in known:
                raise UserError(f"{name}: no statistic of {folder / 'schema.toml'}; there are: {', '.join(known) or 'none'}")
            print(f"{name} (column {known[name].column})")
            for bucket in range(known[name].buckets):
                held = known[name].values_of(bucket)
                print(f"  {bucket:>4}  " + ("missing" if held is None else f"{held[0]!r} <= value < {held[1]!r}"))

    _run(body)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run.dir for its newest checkpoint, RUN/best, or a checkpoint's folder.")],
    out: Annotated[Path, typer.Option(help="Folder to write; it must not be there yet.")],
    format: Annotated[str, typer.Option(help="safetensors, program or delta.")] = "safetensors",
    embeddings: Annotated[str, typer.Option(help="Of a program's sharded tables: fp32, fp16 or int8.")] = "fp32",
    compiled: Annotated[bool, typer.Option("--compiled", help="Compile the program with AOTInductor too (minutes).")] = False,
    since: Annotated[Path | None, typer.Option(help="The checkpoint that a delta is from.")] = None,
    shard_bytes: Annotated[int, typer.Option(min=1, help="Size from which safetensors go on in another file.")] = 2 * 10**9,
) -> None:
    """Write what others load: safetensors with an index, a scoring program, or the rows changed since another checkpoint."""

    def body() -> None:
        if format not in ("safetensors", "program", "delta"):
            raise UserError(f"--format {format}: allowed are safetensors, program, delta")
        if embeddings not in ("fp32", "fp16", "int8"):
            raise UserError(f"--embeddings {embeddings}: allowed are fp32, fp16, int8")
        if (since is None) == (format == "delta"):
            raise UserError("--since names the older checkpoint of --format delta, and is for it alone")
        from home_dist.export.source import Source
        from home_dist.export.weights import export_delta, export_weights

        source = Source.open(run)
        if format == "safetensors":
            export_weights(source, out, shard_bytes)
        elif since is not None:
            for table, rows in export_delta(source, Source.open(since), out).items():
                print(f"table {table}: {rows:,} of {source.table_shape(table)[0]:,} rows changed")
        else:
            from home_dist.export.program import export_program
            from home_dist.training.ranks import form_ranks

            ranks = form_ranks(source.config.distributed)
            for p in export_program(source, out, embeddings, compiled, ranks):  # type: ignore[arg-type]
                auc = f"AUC {p.trainer_auc:.4f} -> {p.program_auc:.4f}"
                print(f"task {p.task}: largest difference to the trainer {p.largest_difference:.2e}, {auc} on the test split")
        print(f"written to {out}")

    _run(body)


@app.command()
def score(
    program: Annotated[Path, typer.Argument(help="Folder that `home-dist export --format program` wrote.")],
    data: Annotated[str, typer.Argument(help="Parquet files with the program's columns: a file, folder, glob or URL.")],
    out: Annotated[Path, typer.Option(help="Folder to write; it must not be there yet.")],
    keep: Annotated[list[str] | None, typer.Option(help="A column to copy beside the scores; several times.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows that are scored together.")] = 4096,
    compiled: Annotated[bool, typer.Option("--compiled", help="Run the program that AOTInductor compiled.")] = False,
) -> None:
    """Score Parquet files with an exported program: a column of probabilities per task."""

    def body() -> None:
        from home_dist.export.scoring import score_files

        count = score_files(program, data, out, keep or [], rows, compiled)
        print(f"{count:,} rows scored, written to {out}")

    _run(body)


checkpoints = typer.Typer(no_args_is_help=True, help="List, verify, show, compare and remove checkpoints.")
app.add_typer(checkpoints, name="checkpoints")
_Checkpoint = Annotated[Path, typer.Argument(help="A checkpoint's folder, a run.dir for its newest one, or RUN/best.")]


@checkpoints.command("ls")
def checkpoints_ls(run: Annotated[Path, typer.Argument(help="run.dir of a run.")]) -> None:
    """List a run's checkpoints with their metrics, and which of them stay."""

    def body() -> None:
        from home_dist.training.checkpoint import looking
        from home_dist.training.tables import Screen

        Screen(True).table(looking.listing(run))

    _run(body)


@checkpoints.command("verify")
def checkpoints_verify(
    path: Annotated[Path, typer.Argument(help="A checkpoint's folder, or a run.dir for all of them.")],
) -> None:
    """Check every file against the manifest's size and SHA-256; what is damaged is named, the newest intact one offered."""

    def body() -> None:
        from home_dist.training.checkpoint import looking

        for line in looking.verified(path):
            print(line, flush=True)

    _run(body)


@checkpoints.command("show")
def checkpoints_show(path: _Checkpoint) -> None:
    """Show what is in a checkpoint: step, metrics, versions, tables with shapes and norms, dense parameters."""

    def body() -> None:
        from home_dist.training.checkpoint import looking
        from home_dist.training.tables import Screen

        text, *tables = looking.shown(looking.find(path))
        screen = Screen(True)
        screen.say(text)
        for table in tables:
            screen.table(table)

    _run(body)


@checkpoints.command("diff")
def checkpoints_diff(before: _Checkpoint, after: _Checkpoint) -> None:
    """Show what changed between two checkpoints: settings, versions, metrics, rows of tables, dense parameters."""

    def body() -> None:
        from home_dist.training.checkpoint import looking
        from home_dist.training.tables import Screen

        text, table = looking.compared(looking.find(before), looking.find(after))
        screen = Screen(True)
        screen.say(text)
        screen.table(table)

    _run(body)


@checkpoints.command("prune")
def checkpoints_prune(
    run: Annotated[Path, typer.Argument(help="run.dir of a run that is not training.")],
    keep_last: Annotated[int | None, typer.Option(min=1, help="Instead of the run's own checkpoint.keep_last.")] = None,
    keep_every: Annotated[int | None, typer.Option(min=1, help="Instead of the run's own checkpoint.keep_every.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be removed.")] = False,
) -> None:
    """Remove checkpoints that the rules do not keep."""

    def body() -> None:
        from home_dist.training.checkpoint import looking

        for line in looking.pruned(run, keep_last, keep_every, dry_run):
            print(line)

    _run(body)


@app.command()
def doctor() -> None:
    """Check versions, devices, backends and memory; each finding comes with a fix."""
    from home_dist import doctor as checks

    raise typer.Exit(checks.main())


def _run(body: Callable[[], None]) -> None:
    """Runs a command; errors meant for users become one message and an exit code, without a traceback."""
    silence_libraries()
    try:
        body()
    except UserError as error:
        _leave(error.exit_code, f"{error.prefix}{error}")
    except Exception as error:
        from home_dist.training import ranks

        if isinstance(error, ranks.OtherRankFailed):
            _leave(error.exit_code, None)
        lost = ranks.lost_contact(error)
        if lost is None and os.environ.get("WORLD_SIZE", "1") == "1":
            raise
        if lost is None:
            traceback.print_exc()
            _leave(1, None)  # a process group that is taken down while its ranks are gone may wait for ever
        _leave(lost.exit_code, f"error: {lost}")
    else:
        if "torch" in sys.modules:
            from home_dist.training.ranks import leave_ranks

            leave_ranks()


def _settings(config: Path, overrides: list[str] | None) -> RunConfig:
    """The same on all ranks; the first one tells what overrides left out."""
    notes: list[str] = []
    settings = _alike_on_all_ranks(lambda: load_config(config, overrides or [], notes))
    if os.environ.get("RANK", "0") == "0":
        for note in notes:
            print(f"note: {note}", flush=True)
    return settings


def _alike_on_all_ranks(action: Callable[[], Result]) -> Result:
    """What fails before the ranks can talk fails on all ranks of a host alike: the first of them tells.

    The others stay for a while, because torchrun ends all ranks as soon as one has left: the first might not have
    come to telling by then. One that is still there afterwards failed alone, and tells itself.
    """
    try:
        return action()
    except UserError as error:
        local_rank = os.environ.get("LOCAL_RANK", "0")
        if local_rank == "0":
            _leave(error.exit_code, f"error: {error}")
        time.sleep(_SECONDS_FOR_THE_FIRST_RANK)
        _leave(error.exit_code, f"error on rank {os.environ.get('RANK', local_rank)}: {error}")


def silence_libraries() -> None:
    """TorchRec and torch warn of deprecated calls within themselves, which no user of ours can change."""
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s", force=True)
    for name in ("torchrec", "torch.fx", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(torch|torchrec|fbgemm_gpu)\b")
    for text in (".*ShardedTensor", ".*LeafSpec"):
        warnings.filterwarnings("ignore", message=text, category=FutureWarning)


def _leave(code: int, message: str | None) -> NoReturn:
    """Ends the process at once: other ranks may be gone, and a regular exit would wait for them."""
    if message:
        print(message, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    process.prepare()
    app()


if __name__ == "__main__":
    main()
