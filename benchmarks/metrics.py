"""Exact metrics beside plain numpy, scikit-learn and scipy: time and memory. And an evaluation whose rows ranks share.

    python benchmarks/metrics.py            # 10 million rows of 1 million users and 1 million requests: some 8 minutes
    python benchmarks/metrics.py --quick    # 300,000 rows, under 50 s; writes nothing
    python benchmarks/metrics.py --evaluation    # only the evaluation again; the other results stay

Ours and the plain formulation of a metric take turns in one process on one thread, `--repeats` times, and medians are
told. Times are processor seconds, as other programs may run.

AUC: scikit-learn's roc_auc_score. GAUC: rows sorted by user, then that function for each user. XAUC: scipy's kendalltau, which
takes N log N as well, and from whose tau-b the share of concordant pairs follows. XAUC by user: rows sorted by user, then all
pairs of each user by numpy. NDCG@10: rows sorted by request, then scikit-learn's ndcg_score for each request, which also gives
equal scores their mean gain. MAE: numpy's mean, which checks nothing. A loop over users or requests is timed on some of them,
and its time for all is that times the ratio of rows. On the same rows both values must agree.

XAUC without a compiler, by numpy, is timed once. Memory: the peak of a process that computes the metric once, without what it
held before, per row. Beside it lies what the arguments themselves take: 24 bytes (labels, scores and keys).

Evaluation on 1, 2 and 4 ranks, real processes with gloo: 8 tasks of all families, metrics within users and requests, and
slices. Its memory is the peak of the rank that takes most, per row of all ranks, above what a small evaluation left. Its speed
is that of `evaluate` on the KuaiRand sample (HoME, one rank), metrics included, over the forward of training, with the reader
in both; both take turns.
"""

import argparse
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.claims import claim  # noqa: E402
from benchmarks.machine import memory, processor, write_result  # noqa: E402
from benchmarks.metrics_evaluation import WORLDS, shared, speeds  # noqa: E402
from home_dist.metrics import auc, gauc, grouped_xauc, mean_absolute_error, within_requests, xauc  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "metrics.json"
METRICS = ("AUC", "GAUC", "XAUC", "XAUC by user", "NDCG@10", "MAE")
LOOPS = ("GAUC", "XAUC by user", "NDCG@10")
"""Metrics whose plain formulation loops over groups."""
GOALS = {"AUC": 1, "GAUC": 20, "XAUC": 1, "XAUC by user": 10, "NDCG@10": 50, "MAE": 0.2}
LARGEST_BYTES = 250


def table(rows: int) -> dict[str, np.ndarray]:
    """Clicks, seconds of watch time, predictions of both (of float32, so that some are equal), users and requests; a tenth as
    many of each as there are rows."""
    random = np.random.default_rng(0)
    score = random.random(rows, dtype=np.float32).round(4).astype(np.float64)
    return {
        "click": (random.random(rows) < 0.1 + 0.3 * score).astype(np.float64),
        "seconds": random.exponential(10 + 20 * score).round(3),  # logs hold milliseconds
        "score": score,
        "user": (rows // 10 * random.random(rows) ** 1.2).astype(np.int64) * 7919,
        "request": random.integers(0, rows // 10, rows),
    }


def ours(name: str, columns: dict[str, np.ndarray]) -> float:
    click, seconds, score = (columns[c] for c in ("click", "seconds", "score"))
    calls: dict[str, Callable[[], float]] = {
        "AUC": lambda: auc(click, score),
        "GAUC": lambda: gauc(click, score, columns["user"]).value,
        "XAUC": lambda: xauc(seconds, score),
        "XAUC by user": lambda: grouped_xauc(seconds, score, columns["user"]).value,
        "NDCG@10": lambda: within_requests(seconds, score, columns["request"], k=10).ndcg,
        "MAE": lambda: mean_absolute_error(seconds, 30 * score),
    }
    return calls[name]()


def plain(name: str, columns: dict[str, np.ndarray]) -> float:
    from scipy.stats import kendalltau
    from sklearn.metrics import roc_auc_score

    click, seconds, score = (columns[c] for c in ("click", "seconds", "score"))
    if name == "AUC":
        return float(roc_auc_score(click, score))
    if name == "MAE":
        return float(np.abs(30 * score - seconds).mean())
    if name == "XAUC":
        pairs = len(score) * (len(score) - 1) / 2
        of_equal = [
            (count * (count - 1) / 2).sum() for count in (np.unique(c, return_counts=True)[1] for c in (seconds, score))
        ]
        apart = [pairs - equal for equal in of_equal]
        return float(0.5 + kendalltau(seconds, score).statistic * np.sqrt(apart[0] * apart[1]) / (2 * apart[0]))
    label, key, value = {
        "GAUC": (click, "user", area_of),
        "XAUC by user": (seconds, "user", pairs_of),
        "NDCG@10": (seconds, "request", ndcg_of),
    }[name]
    order = np.argsort(columns[key], kind="stable")
    starts = np.flatnonzero(np.diff(columns[key][order])) + 1
    total = weight = 0.0
    for y, s in zip(np.split(label[order], starts), np.split(score[order], starts), strict=True):
        found = value(y, s)
        if found is not None:
            size = 1 if name == "NDCG@10" else len(y)
            total, weight = total + size * found, weight + size
    return total / weight


def area_of(label: np.ndarray, score: np.ndarray) -> float | None:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(label, score)) if label.min() != label.max() else None


def pairs_of(label: np.ndarray, score: np.ndarray) -> float | None:
    higher = label[:, None] > label
    won = (score[:, None] > score) + 0.5 * (score[:, None] == score)
    return float(won[higher].mean()) if higher.any() else None


def ndcg_of(label: np.ndarray, score: np.ndarray) -> float | None:
    from sklearn.metrics import ndcg_score

    if not label.any():
        return None
    return float(ndcg_score(label[None], score[None], k=10)) if len(label) > 1 else 1.0  # it refuses a single candidate


def some_rows(name: str, columns: dict[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
    """Rows of some of the users or requests, about as many as `rows`."""
    key = columns["request" if name == "NDCG@10" else "user"]
    chosen = key // (1 if name == "NDCG@10" else 7919) % max(1, len(key) // rows) == 0
    return {column: values[chosen] for column, values in columns.items()}


def measure(rows: int, loop_rows: int, repeats: int) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    for name in METRICS:  # imports and builds
        ours(name, table(1000)), plain(name, table(1000))
    whole, result = table(rows), {}
    for name in METRICS:
        part = some_rows(name, whole, loop_rows) if name in LOOPS else whole
        ratio = rows / len(part["score"])
        seconds: dict[str, list[float]] = {"ours": [], "plain": []}
        values: dict[str, float] = {}
        for _ in range(repeats):
            for key, call, columns, factor in (("ours", ours, whole, 1.0), ("plain", plain, part, ratio)):
                began = time.process_time()
                values[key] = call(name, columns)
                seconds[key].append((time.process_time() - began) * factor)
        apart = abs((ours(name, part) if name in LOOPS else values["ours"]) - values["plain"])
        medians = {key: statistics.median(found) for key, found in seconds.items()}
        speed = statistics.median(p / o for o, p in zip(seconds["ours"], seconds["plain"], strict=True))
        result[name] = {"seconds": seconds, "median": medians, "speed": speed, "plain_rows": len(part["score"]), "apart": apart}
        print(f"{name}: {medians['ours']:.2f} s, plain {medians['plain']:.2f} s", flush=True)
    return result


def without_compiler(rows: int) -> float:
    """Seconds of XAUC by numpy alone."""
    module = sys.modules["home_dist.metrics.inversions"]
    columns, there = table(rows), module.native
    module.native = lambda: None  # type: ignore[attr-defined]
    try:
        began = time.process_time()
        ours("XAUC", columns)
        return time.process_time() - began
    finally:
        module.native = there  # type: ignore[attr-defined]


def peak_of(name: str, rows: int) -> None:
    """In a process of its own: bytes per row above those held before."""
    import torch

    torch.set_num_threads(1)
    ours(name, table(1000))
    columns = table(rows)
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    before = memory("VmRSS")
    ours(name, columns)
    print(json.dumps((memory("VmHWM") - before) / rows))


def measure_memory(rows: int) -> dict[str, float]:
    found = {}
    for name in METRICS:
        command = [sys.executable, __file__, "--peak-of", name, "--rows", str(rows)]
        ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        if ended.returncode:
            sys.exit(f"{name} failed:\n{ended.stderr}")
        found[name] = json.loads(ended.stdout.splitlines()[-1])
    return found


def report(result: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {result[name]}" for name in ("numpy", "scipy", "scikit-learn"))
    lines = [
        f"{result['rows']:,} rows, one thread of {result['processor']} ({result['cores']} cores), {versions}; "
        f"processor seconds, medians of {result['repeats']}, "
        f"load {result['load_before']:.1f} before and {result['load_after']:.1f} after.",
        "",
        "| metric | s | plain, s | speed of plain | plain timed on, rows | difference | bytes per row |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, of in result["metrics"].items():
        lines.append(
            f"| {name} | {of['median']['ours']:.2f} | {of['median']['plain']:,.2f} | {of['speed']:,.2f} | "
            f"{of['plain_rows']:,} | {of['apart']:.1e} | {result['bytes_per_row'][name]:.0f} |"
        )
    of_ranks, speed = result["evaluation"], result["evaluation_speed"]
    lines += [
        "",
        f"Evaluation of {of_ranks['rows']:,} rows, {of_ranks['tasks']} tasks, {of_ranks['cores']} cores of "
        f"{of_ranks['processor']}, load {of_ranks['load_before']:.1f} before:",
        "",
        "| ranks | bytes per row and rank | s |",
        "|---|---|---|",
        *(f"| {w} | {of_ranks[str(w)]['bytes']:.0f} | {of_ranks[str(w)]['seconds']:.1f} |" for w in WORLDS),
        "",
        f"Evaluation: {statistics.median(speed['evaluation']):,.0f} samples/s, forward of training: "
        f"{statistics.median(speed['forward']):,.0f} samples/s; {speed['ratio']:.2f} times as fast, median of "
        f"{len(speed['forward'])} turns.",
    ]
    lines += ["", f"XAUC by numpy, without a compiler: {result['xauc_without_compiler']:.1f} s."]
    return "\n".join(lines)


def claims(result: dict[str, Any]) -> list[str]:
    found = [claim(f"{name}, speed of plain", of["speed"], GOALS[name], form=".3g") for name, of in result["metrics"].items()]
    apart = max(of["apart"] for of in result["metrics"].values())
    found.append(claim("largest difference to plain", apart, 1e-9, at_most=True, form=".3g"))
    largest = max(result["bytes_per_row"].values())
    of_ranks = result["evaluation"]
    least, most = (of_ranks[str(w)]["bytes"] for w in (WORLDS[-1], WORLDS[0]))
    return [
        *found,
        claim(f"evaluation, bytes per row and rank, {WORLDS[-1]} ranks over {WORLDS[0]}", least / most, 0.35, at_most=True),
        claim("evaluation, largest difference between numbers of ranks", of_ranks["apart"], 1e-12, at_most=True, form=".3g"),
        claim("evaluation, speed of the forward of training", result["evaluation_speed"]["ratio"], 1.0),
        claim("memory, bytes per row of the metric that takes most", largest, LARGEST_BYTES, at_most=True, form=".0f"),
    ]


def measured(quick: bool, rows: int, repeats: int) -> dict[str, Any]:
    result: dict[str, Any] = {"quick": quick, "rows": rows, "repeats": repeats, "cores": len(os.sched_getaffinity(0))}
    result |= {"processor": processor(), "load_before": os.getloadavg()[0]}
    result |= {name: importlib.metadata.version(name) for name in ("numpy", "scipy", "scikit-learn")}
    result["metrics"] = measure(rows, 3_000 if quick else 30_000, repeats)
    result["xauc_without_compiler"] = without_compiler(rows)
    result["bytes_per_row"] = measure_memory(rows)
    result["load_after"] = os.getloadavg()[0]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--evaluation", action="store_true")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--peak-of", choices=METRICS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    rows = chosen.rows or (300_000 if chosen.quick else 10_000_000)
    if chosen.peak_of:
        peak_of(chosen.peak_of, rows)
        return
    if chosen.evaluation:
        result = json.loads(RESULTS.read_text())
    else:
        result = measured(chosen.quick, rows, chosen.repeats or (2 if chosen.quick else 3))
    load = os.getloadavg()[0]
    result["evaluation"] = shared(60_000 if chosen.quick else 1_000_000)
    result["evaluation_speed"] = speeds(*((1, 20) if chosen.quick else (5, 60)))
    result["evaluation"] |= {"processor": processor(), "cores": len(os.sched_getaffinity(0)), "load_before": load}
    print(report(result))
    for line in claims(result):
        print(line)
    if not chosen.quick:
        write_result(RESULTS, result)
        RESULTS.with_suffix(".md").write_text(report(result) + "\n")


if __name__ == "__main__":
    main()
