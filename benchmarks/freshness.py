"""From a new file of training data to an answer that has learned from it; and a loop that goes on whatever is killed.

    python benchmarks/freshness.py            # some 20 minutes: results/freshness.json, .md, .png
    python benchmarks/freshness.py --quick    # under 50 s: a small base, two files; writes nothing

README's HoME follows the sample's files on one rank and publishes; `home-dist serve` takes each version while a load asks it
without a pause, all on this machine. Measured are:

    freshness   from a file's arrival in `train` to the first answer of a version that was trained on it, and the parts of this
    versions    taken under load: requests that failed, and answers that are not to the bit what `open_version(...).predict` of
                the version that they name gives
    kills       kill -9 of the run or the server at random moments: what is current must always be whole, its golden requests
                must be answered as its trainer did, and both must go on by the same command
"""

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.claims import claim  # noqa: E402
from benchmarks.freshness_loop import SAMPLE, Fresh, Loop, requests_of  # noqa: E402
from benchmarks.machine import write_result  # noqa: E402
from home_dist.publish.replay import replay  # noqa: E402
from home_dist.publish.scoring import open_version  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
PARTS = ("wait", "train", "publish", "take")
FILE_ROWS = 1000


class Load:
    """Asks the server without a pause, in a thread, and keeps what it answers."""

    def __init__(self, loop: Loop, requests: list[dict[str, Any]]):
        self.loop, self.requests = loop, requests
        self.answers: dict[tuple[str, int], dict[str, list[float]]] = {}
        """By version and number of the request."""
        self.asked = self.failed = self.differing = 0
        self.seconds: list[float] = []
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ends.is_set():
            number = self.asked % len(self.requests)
            self.asked += 1
            try:
                answer, seconds = self.loop.ask(self.requests[number])
            except Exception as error:
                self.failed += 1
                print(f"a request failed: {error}", file=sys.stderr)
                time.sleep(0.1)
                continue
            self.seconds.append(seconds)
            known = self.answers.setdefault((answer["version"], number), answer["predictions"])
            self.differing += known != answer["predictions"]


def asked_rows(columns: list[str], most: int) -> tuple[list[pa.Table], list[dict[str, Any]]]:
    """(whole rows, requests) of some users of the test days."""
    table = pq.read_table(SAMPLE / "test" / "part-00000.parquet").slice(0, 2000)
    found = [(table.select(columns).take(pa.array(rows)), request) for rows, request in requests_of(table, columns)]
    return [t for t, _ in found[:most]], [r for _, r in found[:most]]


def unequal(load: Load, tables: list[pa.Table], versions: Path) -> tuple[int, int, int]:
    """(versions compared, answers compared, answers that are not to the bit what the version predicts)"""
    names = sorted({version for version, _ in load.answers})
    compared = wrong = opened = 0
    for name in names:
        if not (versions / name / "manifest.json").is_file():
            continue
        model, opened = open_version(str(versions), name), opened + 1
        for (version, number), predictions in load.answers.items():
            if version == name:
                expected = model.predict(tables[number])
                same = all(np.array_equal(np.float32(predictions[c]), np.asarray(expected[c])) for c in expected.column_names)
                compared, wrong = compared + 1, wrong + (not same)
    return opened, compared, wrong


def measured(work: Path, quick: bool) -> dict[str, Any]:
    loop = Loop(work, ["publish.keep=400", "publish.full_every=50"])
    base = sorted((SAMPLE / "train").glob("*.parquet"))[: 1 if quick else None]
    samples = loop.prepare(base, 5000 if quick else None)
    days = pq.read_table(SAMPLE / "validation" / "part-00000.parquet")
    fresh: list[Fresh] = []
    with loop.running():
        loop.trainer.start()
        loop.wait_for_samples(samples)
        loop.start_serving()
        model = open_version(str(loop.versions))
        tables, requests = asked_rows(model.columns, 20)
        with Load(loop, requests) as load:
            before = loop.health()["version"]
            for number in range(2 if quick else 12):
                part = days.slice(number * FILE_ROWS, FILE_ROWS)
                fresh.append(loop.freshness(part, samples))
                samples += len(part)
                print(f"file {number + 1}: {told(fresh[-1])}", flush=True)
            while not quick and taken(loop) < 100:
                part = days.slice((samples * 7) % (len(days) - 300), 300)
                loop.deliver(part)
                samples += len(part)
                time.sleep(2)
            time.sleep(1)
        kept = {"versions_taken": taken(loop), "first_version": before, "requests": load.asked, "failed": load.failed}
        kept |= {"answers_that_changed_within_a_version": load.differing}
        kept |= {"p50_ms": 1e3 * float(np.median(load.seconds)), "p99_ms": 1e3 * float(np.quantile(load.seconds, 0.99))}
        stalls = waits(loop)
    opened, compared, wrong = unequal(load, tables, loop.versions)
    kept |= {"versions_compared": opened, "answers_compared": compared, "answers_not_equal_to_the_bit": wrong}
    return {
        "file_rows": FILE_ROWS,
        "freshness": [asdict(f) | {"seconds": f.seconds} for f in fresh],
        "under_load": kept,
        "training_waited_ms": {"median": statistics.median(stalls), "largest": max(stalls), "versions": len(stalls)},
    }


def taken(loop: Loop) -> int:
    text = loop.client.get(f"{loop.url}/metrics").text
    [count] = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith("home_dist_versions_taken_total")]
    return int(float(count))


def waits(loop: Loop) -> list[float]:
    """Milliseconds that training waited for each version."""
    lines = [line for _, line in loop.trainer.lines if line.startswith("published ")]
    return [float(line.rpartition("training waited ")[2].removesuffix(" ms").replace(",", "")) for line in lines]


def told(fresh: Fresh) -> str:
    parts = ", ".join(f"{name} {getattr(fresh, name):.1f}" for name in PARTS)
    return f"{fresh.seconds:.1f} s ({parts})"


def killed(work: Path, kills: int) -> dict[str, Any]:
    """kill -9 at random moments, while small files arrive."""
    options = ["publish.keep=2", "publish.full_every=5", "checkpoint.every_steps=5", "train.batch_size=128"]
    loop, draw = Loop(work, options), np.random.default_rng(5)
    samples = loop.prepare(sorted((SAMPLE / "train").glob("*.parquet"))[:1], 5000)
    days, ends = pq.read_table(SAMPLE / "validation" / "part-00000.parquet"), threading.Event()

    def deliver() -> None:
        number = 0
        while not ends.wait(4):
            loop.deliver(days.slice(300 * number % (len(days) - 300), 300))
            number += 1

    wrong, counts, answered = [], {"the run": 0, "the server": 0}, 0
    with loop.running():
        loop.trainer.start()
        loop.wait_for_samples(samples)
        loop.start_serving()
        request = asked_rows(open_version(str(loop.versions)).columns, 1)[1][0]
        arriving = threading.Thread(target=deliver, daemon=True)
        arriving.start()
        for _ in range(kills):
            victim = loop.trainer if draw.random() < 0.6 else loop.server
            before = loop.current() or {}
            time.sleep(draw.uniform(0, 3))
            if victim.process is not None:
                victim.process.kill()
                victim.process.wait()
            counts[victim.name] += 1
            manifest, predictions = replay(str(loop.versions))
            apart = max(p.largest_difference for p in predictions)
            if apart > 1e-5:
                wrong.append(f"{manifest.version}: {apart}")
            if victim is loop.server:
                loop.start_serving()
            else:
                since = len(victim.lines)
                victim.start()
                victim.wait_for("^published v", since)
                if (loop.current() or {})["samples"] < before.get("samples", 0) - 128 * 10:
                    wrong.append("a version is older than a checkpoint explains")
            answer, _ = loop.ask(request)
            answered += answer["version"] is not None
        ends.set()
        arriving.join()
    return {
        "kills": counts,
        "answered_after_each": answered,
        "torn_or_wrong": wrong,
        "versions": int((loop.current() or {})["version"][1:]),
    }


def picture(result: dict[str, Any], path: Path) -> None:
    if "freshness" not in result:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.2))
    files, left = result["freshness"], np.zeros(len(result["freshness"]))
    for part, color in zip(PARTS, ("#b0bec5", "#1e88e5", "#43a047", "#fb8c00"), strict=True):
        values = np.array([f[part] for f in files])
        axes.barh(np.arange(len(files)) + 1, values, left=left, label=part, color=color)
        left += values
    axes.set_xlabel(f"seconds from a file of {result['file_rows']:,} rows to the first answer that has learned from it")
    axes.set_ylabel("file")
    axes.invert_yaxis()
    axes.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.15), frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def markdown(result: dict[str, Any]) -> str:
    lines = ["# From a new file to a changed answer", "", "Written by `benchmarks/freshness.py`.", ""]
    if "freshness" in result:
        lines += [f"| file | {' | '.join(PARTS)} | seconds |", f"|---|{'---:|' * (len(PARTS) + 1)}"]
    for number, f in enumerate(result.get("freshness", ())):
        lines.append(f"| {number + 1} | {' | '.join(f'{f[p]:.2f}' for p in PARTS)} | {f['seconds']:.2f} |")
    for title in ("under_load", "training_waited_ms", "killed"):
        if title in result:
            lines += ["", f"| {title.replace('_', ' ')} | |", "|---|---:|"]
            lines += [
                f"| {k.replace('_', ' ')} | {v:,.2f} |" if isinstance(v, float) else f"| {k.replace('_', ' ')} | {v} |"
                for k, v in result[title].items()
            ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--kills", type=int, default=60, help="of the run and the server, 60 by default")
    parser.add_argument("--only", choices=("fresh", "killed"), help="measure one of them, and keep the other's results")
    given = parser.parse_args()
    torch.set_num_threads(1)  # as the server: products are added up in another order on another number of threads
    kept = RESULTS / "freshness.json"
    result: dict[str, Any] = json.loads(kept.read_text()) if given.only and kept.exists() else {}
    with tempfile.TemporaryDirectory(prefix="freshness-", ignore_cleanup_errors=True) as folder:
        if given.only != "killed":
            result |= measured(Path(folder) / "fresh", given.quick)
        if given.only != "fresh" and not given.quick:
            result["killed"] = killed(Path(folder) / "killed", given.kills)
    if not given.quick:
        write_result(kept, result)
        (RESULTS / "freshness.md").write_text(markdown(result))
        picture(result, RESULTS / "freshness.png")
    for line in claims(result, 2 if given.quick else 100):
        print(line)


def claims(result: dict[str, Any], versions: int) -> Iterator[str]:
    none: dict[str, Any] = {"at_most": True, "form": ",d"}
    if "freshness" in result:
        longest, under = max(f["seconds"] for f in result["freshness"]), result["under_load"]
        yield claim("seconds from a file to a changed answer, largest", longest, 30, at_most=True)
        yield claim("versions taken under load", under["versions_taken"], versions, form=",d")
        yield claim("requests that failed meanwhile", under["failed"], 0, **none)
        yield claim("answers that are not their version's to the bit", under["answers_not_equal_to_the_bit"], 0, **none)
    if "killed" in result:
        yield claim("kill -9 of run and server", sum(result["killed"]["kills"].values()), 60, form=",d")
        yield claim("torn versions or wrong answers after them", len(result["killed"]["torn_or_wrong"]), 0, **none)


if __name__ == "__main__":
    main()
