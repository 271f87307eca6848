"""DIN, DIEN, SIM and TWIN on logs whose truth lies a known number of events back: which of them reach it?

    python benchmarks/papers/sequences.py            # half an hour on 2 cores
    python benchmarks/papers/sequences.py --quick    # two encoders, one lag, few samples, under 50 s; writes nothing

A sample has a target's category (of 50) and a history of 1.2 x lag events, at least 12, each a category and an action. All
events are views of categories drawn at random, but three: purchases, all of one category, about `lag` events back (within a
tenth). In half of the samples that category is the target's. The label is 1 with chance 0.9 there, and 0.1 elsewhere, so that
the best AUC is 0.9; who does not see the purchases has 0.5.

Encoders: DIN and DIEN on the newest 100 events, as services cut histories for them; DIN on all of them (up to a lag of 1,000:
it computes every event); SIM by hard search (the newest 50 events of the target's category) and by soft search, and TWIN, on
all of them, with 50 left to attention. DIEN's auxiliary loss asks its states for the next event, of which nothing can be known
here: DIEN is trained without it, too.

By construction DIN and DIEN on 100 events cannot reach a lag of 1,000, whatever they are: that is the control. A hard search
leaves the purchase to attention as long as fewer than 50 newer events have its category: lags up to about 2,500.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))
mpl.use("agg")

from matplotlib import pyplot as plt  # noqa: E402

from benchmarks.claims import claim  # noqa: E402
from benchmarks.papers.runs import RESULTS, Job, evaluation, spread, train_all, write  # noqa: E402
from home_dist.schema import Schema, save_schema  # noqa: E402

CONFIG = ROOT / "benchmarks" / "papers" / "sequences.toml"
SAMPLES = {10: 32_000, 100: 32_000, 1000: 16_000, 10_000: 6_000}
"""By lag, of all splits."""
CATEGORIES, VIEW, PURCHASE, PURCHASES = 50, 1, 2, 3
CHANCE = 0.9
NEWEST, MOST = 100, 50
BATCH = {10_000: 64}
"""By lag, where it is not the configuration's."""
ENCODERS = {
    f"DIN, {NEWEST} newest": f'kind = "din", newest = {NEWEST}',
    f"DIEN, {NEWEST} newest": f'kind = "dien", newest = {NEWEST}',
    f"DIEN, {NEWEST} newest, no auxiliary loss": f'kind = "dien", newest = {NEWEST}, auxiliary_weight = 0',
    "DIN, all": 'kind = "din"',
    "SIM, hard search": f'kind = "sim", search = "hard", most = {MOST}',
    "SIM, soft search": f'kind = "sim", search = "soft", most = {MOST}',
    "TWIN": f'kind = "twin", most = {MOST}',
}
DIN_REACHES = 1000
BEST = 0.9


def write_log(folder: Path, lag: int, samples: int, seed: int = 0) -> None:
    random = np.random.default_rng([seed, lag])
    length = max(12, lag * 6 // 5)
    per_file = max(64, min(samples, 4_000_000 // length))
    splits = {"train": 4, "validation": 1, "test": 1}
    for split, share in splits.items():
        (folder / split).mkdir(parents=True)
        count = samples * share // 6
        for number, first in enumerate(range(0, count, per_file)):
            n = min(per_file, count - first)
            target = random.integers(1, 1 + CATEGORIES, n)
            same = random.random(n) < 0.5
            other = 1 + (target - 1 + random.integers(1, CATEGORIES, n)) % CATEGORIES
            category = random.integers(1, 1 + CATEGORIES, (n, length), dtype=np.int32)
            action = np.full((n, length), VIEW, np.int32)
            near = max(2, lag // 10)
            # Oldest first: the newest event is 1 back.
            back = lag - near + np.argsort(random.random((n, 2 * near)), 1)[:, :PURCHASES]
            at = length - np.clip(back, 1, length)
            rows = np.arange(n)[:, None]
            category[rows, at] = np.where(same, target, other)[:, None]
            action[rows, at] = PURCHASE
            label = random.random(n) < np.where(same, CHANCE, 1 - CHANCE)
            offsets = pa.array(np.arange(n + 1, dtype=np.int32) * length)
            columns: dict[str, Any] = {
                "category": target.astype(np.int32),
                "event_category": pa.ListArray.from_arrays(offsets, category.ravel()),
                "event_action": pa.ListArray.from_arrays(offsets, action.ravel()),
                "label": label.astype(np.int8),
            }
            pq.write_table(pa.table(columns), folder / split / f"part-{number:03d}.parquet", row_group_size=256)
    tree = {
        "table": [{"name": "category", "rows": CATEGORIES + 1}, {"name": "action", "rows": 3}],
        "feature": [{"kind": "id", "name": "category", "column": "category", "table": "category"}],
        "sequence": [
            {
                "name": "events",
                "events": [
                    {"column": "event_category", "table": "category", "target": "category"},
                    {"column": "event_action", "table": "action"},
                ],
            }
        ],
        "task": [{"name": "label", "group": "all", "column": "label"}],
    }
    save_schema(Schema.model_validate(tree), folder / "schema.toml")


def table(result: dict[str, Any]) -> str:
    lines = [f"Test AUC, mean and standard deviation over {result['seeds']} seeds; at best {BEST}.", ""]
    lines += ["| encoder | " + " | ".join(f"{int(lag):,} back" for lag in result["auc"]) + " |"]
    lines += ["|---|" + "---|" * len(result["auc"])]
    for name in ENCODERS:
        cells = [spread(by[name], ".3f") if name in by else "-" for by in result["auc"].values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(result: dict[str, Any], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(9.5, 4), layout="constrained")
    for name in ENCODERS:
        points = [(int(lag), by[name]) for lag, by in result["auc"].items() if name in by]
        middle = [statistics.mean(values) for _, values in points]
        low, high = ([f(values) for _, values in points] for f in (min, max))
        axes.plot([lag for lag, _ in points], middle, "o-", label=name)
        axes.fill_between([lag for lag, _ in points], low, high, alpha=0.15)
    axes.set_xscale("log")
    axes.set_xlabel("events back to what the label depends on")
    axes.set_ylabel("test AUC")
    axes.axhline(BEST, color="gray", linestyle="--")
    axes.grid(alpha=0.2)
    figure.legend(loc="outside right upper")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two encoders, one lag, few samples; writes nothing")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lags", type=int, nargs="+", default=list(SAMPLES))
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs" / "papers" / "sequences", help="what is there is not done again"
    )
    options = parser.parse_args()
    seeds, lags = (1, [10]) if options.quick else (options.seeds, options.lags)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch) if options.quick else options.work
        jobs = {}
        for lag in lags:
            folder = work / f"lag-{lag}"
            if not folder.is_dir():
                write_log(folder, lag, 3000 if options.quick else SAMPLES.get(lag, 6000))
            for name, section in ENCODERS.items():
                if (name == "DIN, all" and lag > DIN_REACHES) or (options.quick and name not in ("DIN, all", "TWIN")):
                    continue
                for seed in range(seeds):
                    settings = [f"data.path={folder}", f'sequence=[{{name = "events", {section}}}]', f"train.seed={seed}"]
                    if lag in BATCH:
                        settings.append(f"train.batch_size={BATCH[lag]}")
                    jobs[lag, name, seed] = Job(f"{name}, {lag}, seed {seed}", CONFIG, tuple(settings))
        found = train_all(list(jobs.values()), work / "runs", evaluation)
    auc: dict[str, dict[str, list[float]]] = {}
    for (lag, name, _), job in jobs.items():
        auc.setdefault(str(lag), {}).setdefault(name, []).append(found[job.name]["test"]["label"]["auc"])
    result = {"seeds": seeds, "auc": auc}
    text = table(result)
    print(text)
    if not options.quick:
        write("sequences", result, text)
        picture(result, RESULTS / "sequences.png")
    for lag, by in auc.items():
        best = max(by, key=lambda name: statistics.mean(by[name]))
        print(claim(f"{int(lag):,} back: AUC of the best encoder ({best})", statistics.mean(by[best]), 0.85))


if __name__ == "__main__":
    main()
