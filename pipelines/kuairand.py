"""KuaiRand logs in the published layout -> Parquet that `home-dist train` reads.

    python pipelines/kuairand.py RAW OUT

RAW is an unpacked KuaiRand release (Pure, 1K, ...): log_standard_*.csv and log_random_*.csv, one or several, and
whichever of user_features_*, video_features_basic_*, video_features_statistic_* and user_sequences_* are there; .csv,
.csv.gz or .parquet. Everything is held in memory.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from home_dist.errors import UserError
from home_dist.prepare.kuairand import KuaiRandOptions, prepare_kuairand
from home_dist.prepare.summary import part_lines


def main(
    raw: Annotated[Path, typer.Argument(help="Folder with the published files.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; it must not hold anything yet.")],
    train_days: Annotated[int, typer.Option(help="Days of the log to train on, before those of validation.")] = 10,
    validation_days: int = 2,
    test_days: Annotated[int, typer.Option(help="The log's last days.")] = 2,
    history: Annotated[int, typer.Option(min=0, help="Events of a user's history at most.")] = 30,
    buckets: Annotated[int, typer.Option(min=2, help="Quantile buckets per statistic.")] = 20,
    train_files: Annotated[int, typer.Option(min=1, help="Files of the training part.")] = 4,
    use_future_video_statistics: Annotated[
        bool, typer.Option("--use-future-video-statistics", help="The videos' counts over the month; they leak labels.")
    ] = False,
) -> None:
    """Prepares a KuaiRand log: labels, as-of statistics, histories, vocabularies, splits by day."""
    options = KuaiRandOptions(
        train_days=train_days,
        validation_days=validation_days,
        test_days=test_days,
        history=history,
        buckets=buckets,
        month_statistics=use_future_video_statistics,
        train_files=train_files,
    )
    try:
        report = prepare_kuairand(raw, out, options, lambda text: print(text, flush=True))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    for line in part_lines(report):
        print(line)
    print(f"written to {out}")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
