"""`home-dist serve` against one row per candidate, for requests of one user with a long history.

    python benchmarks/serving.py              # results/serving.json and .md: some minutes
    python benchmarks/serving.py --missing    # only cases that the stored results lack; the others stay as they are
    python benchmarks/serving.py --quick      # DIN, 200 candidates and 500 events alone, under 50 s; writes nothing

A generated model: 4 user and 3 item features of raw ids in tables of 100,000 rows, width 16; a history (item, category, watch
ratio) with DIN or TWIN; HoME with 4 tasks. Both sides get the same request as Arrow and give the same predictions, in one
process and in turns, and the time is from Arrow to predictions: once, as the server computes it, with the user's columns in one
row; plain, as `open_version(...).predict` computes a table that repeats them for each candidate. Candidates/s: medians over the
turns.

Over HTTP a client asks a server for the same, without a pause, as Arrow and as JSON. `plain` there is a request to the same
server that has all columns repeated for each candidate.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
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
import torch  # noqa: E402

from benchmarks.claims import claim  # noqa: E402
from benchmarks.id_log import EVENTS, GROUP, ITEM, TASKS, USER, WATCHED, describe, power_law, rare_labels  # noqa: E402
from benchmarks.machine import write_result  # noqa: E402
from benchmarks.sample_run import SINGLE, output_of, set_options  # noqa: E402
from home_dist.config.serve import ServeSection  # noqa: E402
from home_dist.publish.scoring import VersionModel, open_version  # noqa: E402
from home_dist.serve.arrow_body import ARROW, arrow_body  # noqa: E402
from home_dist.serve.request import RankingRequest  # noqa: E402
from home_dist.serve.version import ServedVersion  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
ROWS = 100_000
CASES = [(50, 500), (200, 500), (1000, 500), (200, 1000), (1000, 1000)]
"""(candidates, events of the user)"""
QUICK = [(200, 500)]
GOAL = 5.0
FORMS = ("arrow", "json")
ENCODERS = {"din": 'kind = "din"', "twin": 'kind = "twin", most = 50, heads = 4, head_dim = 16'}


def columns_of(random: np.random.Generator, rows: int, users: int, events: int) -> pa.Table:
    """A log of raw ids: rows of so many users, one after another."""
    of_row = np.repeat(np.arange(users), rows // users)

    def raw(rows: int) -> Any:
        return power_law(random, ROWS, rows).astype(np.int64) * 1_000_003

    columns: dict[str, Any] = {name: raw(users)[of_row] for name in USER} | {name: raw(rows) for name in ITEM}
    columns |= rare_labels(random, list(TASKS), rows) | {GROUP: of_row}
    offsets = np.arange(rows + 1, dtype=np.int32) * events
    for name in EVENTS:
        values = raw(users * events) if name != "watched_ratio" else power_law(random, 100, users * events)
        columns[name] = pa.ListArray.from_arrays(offsets, values.reshape(users, events)[of_row].reshape(-1))
    return pa.table(columns)


def published(folder: Path, encoder: str) -> str:
    """A place with one version of a model that was trained for two steps."""
    (folder / "train").mkdir(parents=True)
    pq.write_table(columns_of(np.random.default_rng(0), 512, 64, 50), folder / "train" / "part-0.parquet")
    hashed = {"kind": "hash", "type": "integer"}
    tables: list[dict[str, Any]] = [{"name": n, "rows": ROWS, "values": hashed} for n in (*USER, *ITEM)]
    more = {"table": [*tables, {"name": "ratio", "rows": 100}], "sequence": [WATCHED]}
    describe(folder, dict.fromkeys((*USER, *ITEM), ROWS), TASKS, more)
    lines = [
        f'run = {{ dir = "{folder}/run" }}',
        f'data = {{ path = "{folder}", validation = "", test = "", window_rows = 256 }}',
        "embedding = { dim = 16, small_dim = 16 }",
        "train = { batch_size = 256, epochs = 1 }",
        'model = { kind = "home", expert_hidden = [128], expert_dim = 64 }',
        f'sequence = [{{ name = "watched", {ENCODERS[encoder]} }}]',
    ]
    (folder / "run.toml").write_text("\n".join(lines) + "\n")
    output_of([*SINGLE, "train", folder / "run.toml"])
    output_of([*SINGLE, "publish", folder / "run", "--to", folder / "versions"])
    return str(folder / "versions")


def request(model: VersionModel, candidates: int, events: int) -> tuple[RankingRequest, pa.Table]:
    """A request, and the same with the user's columns repeated for each candidate."""
    whole = columns_of(np.random.default_rng(1), candidates, 1, events).select(model.columns)
    of_user = [*USER, *EVENTS]
    return RankingRequest(whole.slice(0, 1).select(of_user), whole.drop_columns(of_user)), whole


def seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def compared(model: VersionModel, case: tuple[int, int], turns: int) -> dict[str, Any]:
    version = ServedVersion(model, ServeSection())
    asked, whole = request(model, *case)
    sides: dict[str, Callable[[], Any]] = {
        "once": lambda: version.predict([version.decode(asked)])[0],
        "plain": lambda: model.predict(whole),
    }
    once, plain = sides["once"](), sides["plain"]()
    difference = max(float(np.abs(once[:, n] - np.asarray(plain[name])).max()) for n, name in enumerate(version.names))
    times: dict[str, list[float]] = {"once": [], "plain": []}
    for turn in range(turns):
        for side in ("once", "plain") if turn % 2 else ("plain", "once"):
            times[side].append(seconds(sides[side]))
    decoded = version.decode(asked)
    decoding = statistics.median(seconds(lambda: version.decode(asked)) for _ in range(5))
    computing = statistics.median(seconds(lambda: version.predict([decoded])) for _ in range(5))
    return {
        "candidates": case[0],
        "events": case[1],
        "turns": turns,
        "largest_difference": difference,
        "ratio": statistics.median(p / o for o, p in zip(times["once"], times["plain"], strict=True)),
        "seconds_of_decoding": decoding,
        "seconds_of_computing": computing,
        **{side: figures(values, case[0]) for side, values in times.items()},
    }


def figures(values: list[float], candidates: int) -> dict[str, float]:
    p50, p99 = np.quantile(values, [0.5, 0.99])
    return {"candidates_per_second": candidates / float(p50), "p50_ms": float(p50) * 1e3, "p99_ms": float(p99) * 1e3}


def over_http(place: str, model: VersionModel, cases: list[tuple[int, int]], turns: int) -> list[dict[str, Any]]:
    limits = set_options(["serve.max_body_mb=500", "serve.timeout_s=60"])
    command = [*SINGLE, "serve", place, "--port", "0", *limits]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=None)
    assert server.stdout is not None
    try:
        url = next(line.split()[-1] for line in server.stdout if line.startswith("serving"))
        with httpx.Client(base_url=url, timeout=120) as client:
            return [asked_over_http(client, model, case, turns) for case in cases]
    finally:
        server.terminate()
        server.wait(60)


def asked_over_http(client: httpx.Client, model: VersionModel, case: tuple[int, int], turns: int) -> dict[str, Any]:
    asked, whole = request(model, *case)
    trees = {
        "json": {"user": asked.user.to_pylist()[0], "candidates": asked.candidates.to_pydict()},
        "json, plain": {"candidates": whole.to_pydict()},
    }
    bodies = {
        "arrow": (arrow_body(asked.user, asked.candidates), ARROW),
        "arrow, plain": (arrow_body(pa.table({}), whole), ARROW),
        **{side: (json.dumps(tree).encode(), "application/json") for side, tree in trees.items()},
    }

    def post(side: str) -> None:
        content, kind = bodies[side]
        client.post("/predict", content=content, headers={"Content-Type": kind}).raise_for_status()

    times: dict[str, list[float]] = {side: [] for side in bodies}
    for side in bodies:
        post(side)
    for _ in range(turns):
        for side in bodies:
            times[side].append(seconds(lambda s=side: post(s)))
    sizes = {side: len(content) for side, (content, _) in bodies.items()}
    told = {side: figures(values, case[0]) for side, values in times.items()}
    ratios = {
        form: statistics.median(p / o for o, p in zip(times[form], times[f"{form}, plain"], strict=True)) for form in FORMS
    }
    return {"candidates": case[0], "events": case[1], "turns": turns, "bytes": sizes, "ratio": ratios, **told}


def page(result: dict[str, Any]) -> str:
    lines = [
        "# Serving: the user once per request, and one row per candidate",
        "",
        f"From Arrow to predictions in one process, {result['threads']} threads; `benchmarks/serving.py`. `plain` is one row",
        "per candidate. Times are p50 and p99 in ms.",
        "",
        "| encoder | candidates | events | candidates/s | plain, candidates/s | ratio | ms | plain, ms | largest difference |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in result["in_process"]:
        once, plain = r["once"], r["plain"]
        cells = [r["encoder"], f"{r['candidates']:,}", f"{r['events']:,}"]
        cells += [f"{once['candidates_per_second']:,.0f}", f"{plain['candidates_per_second']:,.0f}", f"{r['ratio']:.1f}"]
        lines.append(f"| {' | '.join([*cells, _times(once), _times(plain), format(r['largest_difference'], '.0e')])} |")
    lines += [
        "",
        "Over HTTP on loopback, one client.",
        "",
        "| encoder | candidates | events | Arrow, ms | plain, ms | ratio | JSON, ms | plain, ms | ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in result["over_http"]:
        cells = [r["encoder"], f"{r['candidates']:,}", f"{r['events']:,}"]
        for form in FORMS:
            cells += [_times(r[form]), _times(r[f"{form}, plain"]), f"{r['ratio'][form]:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _times(told: dict[str, float]) -> str:
    return f"{told['p50_ms']:.1f}, {told['p99_ms']:.1f}"


def claims(result: dict[str, Any]) -> list[str]:
    told = []
    for r, http in zip(result["in_process"], result["over_http"], strict=True):
        if r["events"] == 500:
            name = f"serving, {r['encoder']}, {r['candidates']:,} candidates of a user with 500 events"
            told.append(claim(f"{name}: candidates/s against one row per candidate", r["ratio"], GOAL))
            told.append(claim(f"{name}: the same over HTTP with JSON", http["ratio"]["json"], GOAL))
            for share in ("p50", "p99"):
                value = r["once"][f"{share}_ms"] / r["plain"][f"{share}_ms"]
                told.append(claim(f"{name}: {share} against the plain forward", value, 1, at_most=True))
    difference = max(r["largest_difference"] for r in result["in_process"])
    return [*told, claim("serving, largest difference to the plain forward", difference, 1e-6, at_most=True, form=".1e")]


def keep(result: dict[str, Any], path: Path) -> None:
    for part in ("in_process", "over_http"):
        result[part].sort(key=lambda r: (r["encoder"], CASES.index((r["candidates"], r["events"]))))
    write_result(path, result)
    path.with_suffix(".md").write_text(page(result))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one case, few turns, under 50 s; writes nothing")
    parser.add_argument("--missing", action="store_true", help="only cases that the stored results lack")
    options = parser.parse_args()
    quick, kept = options.quick, RESULTS / "serving.json"
    wanted, turns = (QUICK, 9) if quick else (CASES, 15)
    result: dict[str, Any] = {"threads": torch.get_num_threads(), "in_process": [], "over_http": []}
    if options.missing and not quick and kept.is_file():
        result |= {part: json.loads(kept.read_text())[part] for part in ("in_process", "over_http")}
    there = {(r["encoder"], r["candidates"], r["events"]) for r in result["in_process"]}
    for encoder in ("din",) if quick else ENCODERS:
        cases = [case for case in wanted if (encoder, *case) not in there]
        if not cases:
            continue
        with tempfile.TemporaryDirectory() as folder:
            place = published(Path(folder) / "data", encoder)
            model = open_version(place)
            result["in_process"] += [{"encoder": encoder, **compared(model, case, turns)} for case in cases]
            result["over_http"] += [{"encoder": encoder, **r} for r in over_http(place, model, cases, turns)]
        if not quick:
            keep(result, kept)
    if quick:
        print(page(result))
    print("\n".join(claims(result)))


if __name__ == "__main__":
    main()
