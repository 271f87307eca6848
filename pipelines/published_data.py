"""Published data sets -> data folders that `home-dist train` reads, by a description each.

    python -m pipelines.published_data vk_lsvd RAW OUT      # also kuairec, aliexpress, tenrec

RAW is what was published: of VK-LSVD the data set's folder or that of a subsample, of KuaiRec `KuaiRec 2.0/data`, of AliExpress
a country's folder with train.csv and test.csv, of Tenrec a file such as ctr_data_1M.csv.

OUT.log gets the description, with links to the published files and what had to be changed in them. To change what is prepared,
edit OUT.log/NAME.toml and give it to `home-dist prepare`.
"""

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from home_dist.errors import ConfigError, UserError
from home_dist.prepare.frozen import write_frozen
from home_dist.prepare.generic import LogOptions, prepare_log
from home_dist.prepare.memory import MEMORY_BYTES
from home_dist.prepare.progress import Say
from home_dist.prepare.summary import part_lines
from home_dist.schema import load_schema, save_schema
from home_dist.schema.spec import PretrainedFeature
from pipelines.published.fitting import FITTING, VECTORS

DESCRIPTIONS = Path(__file__).parent / "published"


def prepare_published(name: str, raw: Path, out: Path, options: LogOptions, say: Say = print) -> dict[str, Any]:
    """Returns the report. Raises ConfigError, DataError."""
    if name not in FITTING:
        raise ConfigError(f"{name}: no such data set; there are: {', '.join(FITTING)}")
    folder = out.with_name(f"{out.name}.log")
    if folder.exists():
        raise ConfigError(f"{folder}: is there already. Remove it, or choose another OUT.")
    folder.mkdir(parents=True)
    try:
        more = FITTING[name](raw, folder)
        text = (DESCRIPTIONS / f"{name}.toml").read_text()
        (folder / f"{name}.toml").write_text(f"{text}\n{more}")
        vectors = (folder / VECTORS).is_file()
        keep = ("item_id",) if vectors else ()
        report = prepare_log(folder / f"{name}.toml", out, say, replace(options, keep=keep))
    except UserError:
        shutil.rmtree(folder)
        raise
    if vectors:
        _, width = write_frozen(folder / VECTORS, "item_id", "vector", out / "item_vectors", half=True)
        schema = load_schema(out / "schema.toml")
        item = PretrainedFeature(name="item_vector", column="keep_item_id", width=width, frozen="item_vectors")
        save_schema(schema.model_copy(update={"feature": (*schema.feature, item)}), out / "schema.toml")
    return report


def main(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(FITTING)}.")],
    raw: Annotated[Path, typer.Argument(help="The published folder or file.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; it must not hold anything yet.")],
    processes: Annotated[int, typer.Option(min=1, help="Tasks at a time.")] = 1,
    memory: Annotated[float, typer.Option(min=0.1, help="GB for all processes together, about.")] = MEMORY_BYTES / 1e9,
) -> None:
    """Prepares a published data set."""
    try:
        report = prepare_published(name, raw, out, LogOptions(processes=processes, memory=int(memory * 1e9)))
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
