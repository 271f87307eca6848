"""Census-Income (KDD) -> Parquet that `home-dist train` reads.

    python pipelines/census.py RAW OUT --tasks income --setting nominal

RAW holds census-income.test and census-income.train.nominal.csv (or .gz, .xz).

--tasks: "income", over 50,000, and never married (Ma et al. 2018); "education", a college degree, never married (Ma et al.),
and education_level, a class of 17 (leave it out with data.tasks to compare); "levels", income, never married and
education_level. A column that a label is made of is no feature.

--setting: "nominal", nominal features, published training rows and test file; "all", all features, the test file split
60/20/20.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from home_dist.errors import UserError
from home_dist.prepare.census import CensusOptions, prepare_census


def main(
    raw: Annotated[Path, typer.Argument(help="Folder with the published files.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; it must not hold anything yet.")],
    tasks: Annotated[str, typer.Option(help="income, education, or levels: income beside classes of education.")] = "income",
    setting: Annotated[str, typer.Option(help="nominal or all.")] = "nominal",
    seed: Annotated[int, typer.Option(min=0, help="Of the splits that are not published.")] = 0,
) -> None:
    """Prepares Census-Income: two or three tasks, and the columns that are no labels of them."""
    try:
        report = prepare_census(raw, out, CensusOptions(tasks, setting, seed))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    for name, part in report["splits"].items():
        positives = ", ".join(f"{task} {count:,}" for task, count in part["positives"].items())
        print(f"{name}: {part['rows']:,} rows; positives: {positives}")
    print(f"written to {out}")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
