"""Commands that write a model for others, and score with it."""

import math
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from home_dist.cli.command import command
from home_dist.errors import UserError

group = typer.Typer()


class Format(StrEnum):
    safetensors = "safetensors"
    program = "program"
    dense = "dense"
    delta = "delta"


class CalibrationMethod(StrEnum):
    platt = "platt"
    isotonic = "isotonic"


class Precision(StrEnum):
    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


@command(group)
def export(
    run: Annotated[Path, typer.Argument(help="A run.dir for its newest checkpoint, RUN/best, or a checkpoint's folder.")],
    out: Annotated[Path, typer.Option(help="Folder to write; it must not be there yet.")],
    format: Annotated[Format, typer.Option(help="What to write.")] = Format.safetensors,
    embeddings: Annotated[Precision, typer.Option(help="Of a program's sharded tables.")] = Precision.fp32,
    compiled: Annotated[bool, typer.Option("--compiled", help="Compile the program with AOTInductor too.")] = False,
    since: Annotated[Path | None, typer.Option(help="The checkpoint that a delta is from.")] = None,
    ema: Annotated[bool | None, typer.Option(help="Averaged parameters; by default as train.ema says.")] = None,
    calibrate: Annotated[
        CalibrationMethod | None,
        typer.Option(help="Adds a calibration to a program's binary tasks, fitted on the run's validation split."),
    ] = None,
    shard_bytes: Annotated[int, typer.Option(min=1, help="Size from which safetensors go on in another file.")] = 2 * 10**9,
) -> None:
    """Write what others load: safetensors with an index, a scoring program, one without tables (dense), or rows that changed
    since another checkpoint."""
    if (since is None) == (format is Format.delta):
        raise UserError("--since names the older checkpoint of --format delta, and is for it alone")
    if embeddings is not Precision.fp32 and format is not Format.program:
        raise UserError(f"--embeddings {embeddings.value} is of --format program, which holds tables")
    if compiled and format not in (Format.program, Format.dense):
        raise UserError("--compiled is of --format program and --format dense")
    if calibrate is not None and format is not Format.program:
        raise UserError("--calibrate is of --format program: other formats hold the model's parameters as they were trained")
    from home_dist.export.source import Source
    from home_dist.export.weights import export_delta, export_weights

    source = Source.open(run, ema)
    if format is Format.safetensors:
        export_weights(source, out, shard_bytes)
    elif since is not None:
        for table, rows in export_delta(source, Source.open(since), out).items():
            print(f"table {table}: {rows:,} of {source.table_shape(table)[0]:,} rows changed")
    else:
        from home_dist.distributed.ranks import form_ranks
        from home_dist.export.dense_program import export_dense
        from home_dist.export.program import export_program

        ranks = form_ranks(source.config.distributed)
        if format is Format.dense:
            parities = export_dense(source, out, compiled, ranks)
        else:
            method: Literal["platt", "isotonic"] | None = None if calibrate is None else calibrate.value
            parities = export_program(source, out, embeddings.value, compiled, ranks, method)
        for p in parities:
            auc = "" if math.isnan(p.trainer_auc) else f", AUC {p.trainer_auc:.4f} -> {p.program_auc:.4f}"
            print(f"task {p.task}: largest difference to the trainer {p.largest_difference:.2e}{auc} on the test split")
    print(f"written to {out}")


@command(group)
def score(
    program: Annotated[Path, typer.Argument(help="Folder that `home-dist export --format program` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder to write; it must not be there yet.")],
    data: Annotated[
        str | None, typer.Argument(help="Parquet files with the program's columns: a file, folder, glob or URL.")
    ] = None,
    log: Annotated[
        Path | None, typer.Option(help="In place of prepared files: the description of a raw log, which is prepared first.")
    ] = None,
    schema: Annotated[
        str | None, typer.Option(help="schema.toml of the files; by default the nearest one in a folder around them.")
    ] = None,
    others: Annotated[
        list[Path] | None,
        typer.Option("--with", help="Another program: predictions are the mean of all of them; several times."),
    ] = None,
    keep: Annotated[list[str] | None, typer.Option(help="A column to copy beside the scores; several times.")] = None,
    all_columns: Annotated[
        bool, typer.Option("--all-columns", help="Copy all columns of the files, as data to train on (train.distillation).")
    ] = False,
    prefix: Annotated[str, typer.Option(help="Of the names of the scores' columns, such as teacher_.")] = "",
    rows: Annotated[int, typer.Option(min=1, help="Rows that are scored together.")] = 4096,
    compiled: Annotated[bool, typer.Option("--compiled", help="Run the program that AOTInductor compiled.")] = False,
    processes: Annotated[int | None, typer.Option(min=1, help="With --log: tasks at a time; by default one per core.")] = None,
    memory: Annotated[float, typer.Option(min=0.1, help="With --log: GB for its preparation, about.")] = 2.0,
) -> None:
    """Score Parquet files, or a raw log, with an exported program, or the mean of several: a column of predictions per task."""
    if (data is None) == (log is None):
        raise UserError("name the Parquet files to score, or the description of a raw log with --log")
    if all_columns and (keep or log is not None):
        other = "--keep" if keep else "--log"
        raise UserError(f"--all-columns copies all columns of prepared files: it does not go with {other}")
    from home_dist.export.scoring import ScoreColumns, score_files, score_log

    programs, beside = [program, *(others or [])], ScoreColumns(tuple(keep or ()), all_columns, prefix)
    if log is None:
        count = score_files(programs, data or "", out, beside, rows, compiled, schema)
    else:
        from home_dist.prepare.generic import LogOptions
        from home_dist.prepare.progress import Progress

        options = LogOptions(processes=processes or len(os.sched_getaffinity(0)), memory=int(memory * 1e9))
        count = score_log(programs, log, out, beside, rows, compiled, Progress(), options)
    print(f"{count:,} rows scored, written to {out}")


@command(group)
def publish(
    run: Annotated[Path, typer.Argument(help="A run.dir for its newest checkpoint, RUN/best, or a checkpoint's folder.")],
    to: Annotated[str, typer.Option(help="Folder or URL (s3://bucket/model) of the versions.")],
    rows: Annotated[Precision, typer.Option(help="How rows of tables are written.")] = Precision.fp32,
    delta: Annotated[
        bool, typer.Option("--delta", help="Only rows that changed since the newest version, if its checkpoint is there.")
    ] = False,
    keep: Annotated[int, typer.Option(min=1, help="Newest versions that stay, and those that they build on.")] = 3,
    golden: Annotated[int, typer.Option(min=0, help="Rows of the run's data that go with it, with their predictions.")] = 64,
    ema: Annotated[bool | None, typer.Option(help="Averaged parameters; by default as train.ema says.")] = None,
) -> None:
    """Publish a checkpoint for servers: a version that is whole or not there, in an open format (docs/publish.md)."""
    from home_dist.export.source import Source
    from home_dist.publish.of_checkpoint import publish_checkpoint

    version = publish_checkpoint(Source.open(run, ema), to, rows.value, delta, keep, golden)
    count = sum(t.entries for t in version.tables.values())
    size = sum(f.bytes for f in version.files.values())
    print(f"published {version.version} ({version.kind}, step {version.step:,}): {count:,} rows, {size / 1e6:,.1f} MB")


@command(group)
def replay(
    place: Annotated[str, typer.Argument(help="Folder or URL of published versions.")],
    version: Annotated[str | None, typer.Option(help="v000007; by default the current one.")] = None,
    url: Annotated[str | None, typer.Option(help="A server of this version, which is asked; http://127.0.0.1:8000")] = None,
) -> None:
    """Answer a version's golden requests from its files, or have a server answer them, and compare with the trainer's answers:
    exit code 1 if they differ."""
    from home_dist.publish.replay import TOLERANCE, replay
    from home_dist.serve.replay import replay_server

    manifest, tasks = replay(place, version) if url is None else replay_server(place, url, version)
    allowed = TOLERANCE[manifest.row_type]
    for p in tasks:
        print(f"{p.name}: largest difference to the trainer {p.largest_difference:.2e}")
    far = [p.name for p in tasks if p.largest_difference > allowed]
    told = f"{manifest.version}, {manifest.golden} golden requests, {manifest.row_type} rows, allowed {allowed:g}"
    print(f"{told}: {'too far apart: ' + ', '.join(far) if far else 'as the trainer answers'}")
    if far:
        raise typer.Exit(1)
