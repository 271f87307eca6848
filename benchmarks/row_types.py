"""What rows of fp16 and int8 cost in AUC, asked of a server.

    python benchmarks/row_types.py            # README's HoME, three seeds: results/row_types.json and .md, some 6 minutes
    python benchmarks/row_types.py --only 2   # this seed again; the others' results stay
    python benchmarks/row_types.py --quick    # 20 steps of one seed, few rows, no fp16, under 50 s; writes nothing

README's HoME is trained on the sample and published with rows of each type. `home-dist serve` answers all rows of the sample's
two test days as Arrow, in requests of 2,000 candidates, and AUC and GAUC of its answers are computed by task. Lost is what fp32
has more; a negative loss is a gain by chance. Positives tell how far a task's AUC can be trusted: the sample's two test days
have a few dozen of the sparsest tasks.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from home_dist import process  # noqa: E402

process.prepare()

import httpx  # noqa: E402
import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

from benchmarks.claims import claim  # noqa: E402
from benchmarks.freshness_loop import CONFIG, SAMPLE, Command  # noqa: E402
from benchmarks.machine import write_result  # noqa: E402
from benchmarks.sample_run import SINGLE, output_of, set_options  # noqa: E402
from home_dist.export.source import Source  # noqa: E402
from home_dist.metrics.auc import auc  # noqa: E402
from home_dist.metrics.gauc import gauc  # noqa: E402
from home_dist.process import silence_libraries  # noqa: E402
from home_dist.publish.of_checkpoint import publish_checkpoint  # noqa: E402
from home_dist.publish.scoring import open_version  # noqa: E402
from home_dist.schema import Schema  # noqa: E402
from home_dist.serve.arrow_body import ARROW, arrow_body  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
TYPES = ("fp32", "fp16", "int8")
SEEDS = (0, 1, 2)
CANDIDATES = 2000
ALLOWED = {"fp16": 1e-4, "int8": 1e-3}
"""Of mean AUC that may be lost."""


def trained(run: Path, seed: int, quick: bool) -> Source:
    """README's HoME; nothing is evaluated."""
    few = {"train.max_steps": 20} if quick else {}
    unread = {"data.validation": "''", "data.test": "''", "metrics.of_training": "false", "insight.every_steps": 0}
    options = {"run.dir": run, "train.seed": seed, **unread, **few}
    output_of([*SINGLE, "train", CONFIG, *set_options(f"{key}={value}" for key, value in options.items())])
    return Source.open(run)


@contextmanager
def serving(place: str) -> Iterator[httpx.Client]:
    """Asks a server of the versions there."""
    server = Command("the server", ["serve", place, "--port", "0", *set_options(["serve.max_body_mb=500", "serve.poll_s=0.2"])])
    server.start()
    try:
        _, found = server.wait_for(r"serving v\d+ on (http://127\.0\.0\.1:\d+)")
        with httpx.Client(base_url=found[1], timeout=60) as client:
            yield client
    finally:
        server.end()


def answers(client: httpx.Client, version: str, columns: list[str], days: pa.Table) -> pa.Table:
    """What the server predicts for each row, in its order, once it has taken the version."""
    while (told := client.get("/healthz").raise_for_status().json())["version"] != version:
        if told["refused"]:
            sys.exit(f"the server refused {version}: {told['refused']}")
        time.sleep(0.05)
    found = []
    for first in range(0, len(days), CANDIDATES):
        body = arrow_body(pa.table({}), days.slice(first, CANDIDATES).select(columns).combine_chunks())
        answer = client.post("/predict", content=body, headers={"Content-Type": ARROW}).raise_for_status()
        part = pa.ipc.open_stream(answer.content).read_all()
        if part.schema.metadata[b"version"].decode() != version:
            sys.exit(f"an answer is not of {version}")
        found.append(part.replace_schema_metadata())
    return pa.concat_tables(found)


def figures(schema: Schema, days: pa.Table, predicted: pa.Table) -> dict[str, dict[str, float]]:
    """By task."""
    users, found = np.asarray(days[schema.group_column]), {}
    for task in schema.task:
        labels = np.asarray(days[task.column], np.float64)
        known = np.ones(len(labels)) if task.weight_column is None else np.asarray(days[task.weight_column], np.float64)
        scores = np.asarray(predicted[task.name])
        by_user = gauc(labels, scores, users, known).value
        found[task.name] = {"auc": auc(labels, scores, known), "gauc": by_user, "positives": float((labels * known).sum())}
    return found


def of_seed(work: Path, seed: int, days: pa.Table, quick: bool) -> dict[str, Any]:
    """By type of rows. One server takes the versions, one after the other."""
    source, place, result = trained(work / "run", seed, quick), str(work / "versions"), {}
    with ExitStack() as server:
        client = None
        for kind in ("fp32", "int8") if quick else TYPES:
            manifest = publish_checkpoint(source, place, kind)
            client = client or server.enter_context(serving(place))
            model = open_version(place)
            columns = list(model.columns)
            predicted, expected = answers(client, manifest.version, columns, days), model.predict(days.select(columns))
            apart = max(float(np.abs(np.asarray(predicted[n]) - np.asarray(expected[n])).max()) for n in expected.column_names)
            size = sum(entry.bytes for name, entry in manifest.files.items() if name.startswith("rows-"))
            tasks = figures(source.schema, days, predicted)
            result[kind] = {"bytes_of_rows": size, "tasks": tasks, "largest_difference_to_open_version": apart}
            print(f"seed {seed}, {kind}: mean AUC {mean(tasks, 'auc'):.5f}", flush=True)
    return result


def mean(tasks: dict[str, dict[str, float]], measure: str) -> float:
    """Over the tasks that have this measure."""
    return float(np.nanmean([figures[measure] for figures in tasks.values()]))


def lost(result: dict[str, Any], kind: str, measure: str, task: str | None = None) -> list[float]:
    """By seed: of one task, or of the mean over tasks."""
    found = []
    for of in result["seeds"].values():
        fp32, other = (of[t]["tasks"] for t in ("fp32", kind))
        found.append(mean(fp32, measure) - mean(other, measure) if task is None else fp32[task][measure] - other[task][measure])
    return found


def page(result: dict[str, Any]) -> str:
    seeds = list(result["seeds"].values())
    tasks, kinds = list(seeds[0]["fp32"]["tasks"]), list(seeds[0])
    lost_by = [f"lost, {kind}" for kind in kinds[1:]]
    heads = ["task", "positives", "AUC, fp32", *lost_by, "GAUC, fp32", *lost_by]
    lines = [
        "# AUC by type of rows, asked of a server",
        "",
        f"README's HoME on the sample, {len(seeds)} seed{'s' * (len(seeds) > 1)}, {result['rows']:,} rows of its test days;",
        "`benchmarks/row_types.py`. Means over the seeds. Lost is fp32's less the other's, in units of 0.00001; in brackets",
        "the seed that loses most.",
        "",
        f"| {' | '.join(heads)} |",
        f"|---|{'---:|' * (len(heads) - 1)}",
    ]
    for task in [*tasks, None]:
        cells = ["mean", ""] if task is None else [task, f"{seeds[0]['fp32']['tasks'][task]['positives']:,.0f}"]
        for measure in ("auc", "gauc"):
            fp32 = [of["fp32"]["tasks"] for of in seeds]
            cells.append(f"{statistics.fmean(mean(t, measure) if task is None else t[task][measure] for t in fp32):.4f}")
            for kind in kinds[1:]:
                of = lost(result, kind, measure, task)
                cells.append(f"{_units(statistics.fmean(of))} ({_units(max(of))})")
        lines.append(f"| {' | '.join(cells)} |")
    sizes = ", ".join(f"{kind} {seeds[0][kind]['bytes_of_rows'] / 1e6:.2f} MB" for kind in kinds)
    return "\n".join([*lines, "", f"Files of rows: {sizes}."]) + "\n"


def _units(lost: float) -> str:
    return f"{round(1e5 * lost, 1) + 0.0:.1f}"  # no -0.0


def claims(result: dict[str, Any]) -> list[str]:
    told = []
    kinds = next(iter(result["seeds"].values()))
    for kind, allowed in ((k, most) for k, most in ALLOWED.items() if k in kinds):
        most = max(lost(result, kind, "auc"))
        told.append(claim(f"mean AUC lost by {kind} rows through a server", most, allowed, at_most=True, form=".1e"))
    apart = max(of[kind]["largest_difference_to_open_version"] for of in result["seeds"].values() for kind in kinds)
    return [*told, claim("largest difference of its answers to open_version's", apart, 1e-6, at_most=True, form=".1e")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 steps of one seed, few rows, under 50 s; writes nothing")
    parser.add_argument("--only", type=int, choices=SEEDS, help="this seed again; the others' results stay")
    options = parser.parse_args()
    quick, kept = options.quick, RESULTS / "row_types.json"
    silence_libraries()
    days = pq.read_table(SAMPLE / "test" / "part-00000.parquet")
    if quick:
        days = days.take(pa.array(np.arange(0, len(days), 20)))
    result: dict[str, Any] = {"rows": len(days), "seeds": {}}
    if options.only is not None and not quick and kept.is_file():
        result["seeds"] = json.loads(kept.read_text())["seeds"]
    for seed in SEEDS[:1] if quick else SEEDS if options.only is None else [options.only]:
        with tempfile.TemporaryDirectory(prefix="row-types-") as folder:
            result["seeds"][str(seed)] = of_seed(Path(folder), seed, days, quick)
    if not quick:
        result["seeds"] = dict(sorted(result["seeds"].items()))
        write_result(kept, result)
        (RESULTS / "row_types.md").write_text(page(result))
    print(page(result))
    print("\n".join(claims(result)))


if __name__ == "__main__":
    main()
