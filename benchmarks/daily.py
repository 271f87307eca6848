"""What is lost by training on each new day alone, and what is saved, beside training anew on all days so far.

    python benchmarks/daily.py RAW           # the sample's 14 days, some 25 minutes: results/daily.json, .md, .png
    python benchmarks/daily.py RAW --tune    # first tries settings on the days that are not claimed
    python benchmarks/daily.py --quick       # a generated log of three days, under 50 s; writes nothing

RAW is the raw folder of the sample. Each day is scored by three models that have not seen it:

    increments   `home-dist daily`: the day before is prepared like the days before it, and trained on from the model before it
    anew         all days before are prepared and trained on from the beginning, with the settings of the first model
    still        the first model, of the first three days

Settings are chosen on days 4 to 6 (--tune). Claims are of days 7 to 14, pooled: metrics of all rows of these days, each scored
by its day's model, means over tasks and seeds, with intervals from resampled users. Cost is of preparation and training of
the models of days 4 to 13: rows that both read (training: in each epoch), and processor seconds of the commands, which run on
one thread, starts of programs included. Scoring is left out: it is the same for all.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import daily_report  # noqa: E402
from benchmarks.daily_log import write_drifting, write_kuairand  # noqa: E402
from benchmarks.daily_policies import POLICIES, Scores, Work, anew, days_of, increments, models, scores_of  # noqa: E402
from benchmarks.start import machine  # noqa: E402
from home_dist import process  # noqa: E402
from home_dist.config import DistributedSection, load_config  # noqa: E402
from home_dist.distributed.ranks import Ranks, form_ranks  # noqa: E402
from home_dist.files.json_files import read_json  # noqa: E402
from home_dist.metrics import Bootstrap, bootstrap  # noqa: E402
from home_dist.metrics.bootstrap import mean_bootstrap  # noqa: E402

HERE = ROOT / "benchmarks"
FIRST, TUNED, LAST = 3, 3, 14
"""Days of the first model, days after them that settings are chosen on, and all days."""
INCREMENT = ("train.epochs=1", "train.lr=2e-3")
"""Settings of the days after the first, as --tune ranks them."""
TRIED: tuple[tuple[str, ...], ...] = (
    ("train.epochs=1",),
    ("train.epochs=1", "train.lr=5e-4"),
    ("train.epochs=1", "train.lr=2e-4"),
    ("train.epochs=1", "train.lr=5e-4", "embedding.lr=0.01"),
    ("train.epochs=1", "train.lr=5e-4", "checkpoint.warm_start.optimizer=false"),
    ("train.epochs=2", "train.lr=5e-4"),
    ("train.epochs=1", "train.lr=2e-3"),
    ("train.epochs=1", "train.decay=none"),
    ("train.epochs=2",),
    ("train.epochs=2", "train.lr=2e-3"),
)
EPOCHS = (1, 2, 3)
"""Of training anew. 2 are taken: best in GAUC and where positives are many, and those of configs/kuairand_pure.toml."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, nargs="?", help="folder in the published KuaiRand layout")
    parser.add_argument("--quick", action="store_true", help="a generated log; writes nothing")
    parser.add_argument("--tune", action="store_true", help="tries settings on the days that are not claimed")
    parser.add_argument("--note", action="append", default=[], help="what the results should be read with; several times")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs" / "daily", help="folder for data and runs; a second call goes on"
    )
    chosen = parser.parse_args()
    if not chosen.quick and chosen.raw is None:
        parser.error("give the raw folder, or --quick")
    process.silence_libraries()
    if chosen.quick:
        with tempfile.TemporaryDirectory() as folder:
            write_drifting(Path(folder))
            work = opened(Path(folder), "daily_quick_run.toml", 1, checked=False)
            result = measured(work, 1, 0, 50, form_ranks(DistributedSection()))
    else:
        if not (chosen.work / "description.toml").exists():
            write_kuairand(chosen.raw, chosen.work)
        work = opened(chosen.work, "daily_kuairand_run.toml", FIRST)
        ranks = form_ranks(DistributedSection())
        if chosen.tune:
            tune(work, ranks)
        result = measured(work, chosen.seeds, TUNED, 500, ranks)
        result["start_processor_seconds"] = start(work)
        result["tried"] = read_json(chosen.work / "tried.json", "").get("tried", [])
        result["notes"] = chosen.note
        daily_report.write(result)
    print(daily_report.table(result))
    for line in daily_report.claims(result):
        print(line)


def opened(folder: Path, run: str, first: int, checked: bool = True) -> Work:
    """first: days of the first model."""
    shutil.copy(HERE / run, folder / "run.toml")
    days = sorted(p.stem for p in (folder / "log").iterdir())[-LAST:]
    return Work(folder, days[first - 1 :], checked)


def measured(work: Work, seeds: int, tuned: int, resamples: int, ranks: Ranks) -> dict[str, Any]:
    """Runs both policies side by side, scores all days, and compares. tuned: scored days that are not claimed."""
    first = Work(work.folder, work.days[:1])
    for seed in range(seeds):
        increments(first, seed, INCREMENT)  # training anew begins with its data and model, too

    def both(policy: Callable[..., None], *settings: Sequence[str]) -> None:
        for seed in range(seeds):
            policy(work, seed, *settings)

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(both, increments, INCREMENT), pool.submit(both, anew)]:
            future.result()
    days = {
        policy: {
            seed: {day: scores_of(run, data, ranks) for day, run, data in models(work, policy, seed)} for seed in range(seeds)
        }
        for policy in POLICIES
    }
    if work.checked:
        check(work, days["increments"][0])
    names = work.days[1:]
    return {
        "machine": machine(),
        "seeds": seeds,
        "increment": list(INCREMENT),
        "days": names,
        "claimed": names[tuned:],
        "daily": {
            policy: [[means_of(by_day[day]) for day in names] for by_day in by_seed.values()]
            for policy, by_seed in days.items()
        },
        "pooled": pooled(days, names[tuned:], resamples),
        "cost": {policy: cost(work, policy, seeds) for policy in POLICIES[:2]},
    }


def check(work: Work, days: dict[str, Scores]) -> None:
    """The first scored day's figures are those that `home-dist daily` reports."""
    day = work.days[1]
    reported = next(d["scored"] for d in read_json(days_of(work, 0) / "days.json", "")["days"] if d["day"] == day)
    means = means_of(days[day])
    if any(abs(means[name] - reported[name.lower()]) > 1e-5 for name in means):
        raise SystemExit(f"{day}: home-dist daily reported {reported}, and its model scores {means}")


def means_of(scores: Scores) -> dict[str, float]:
    """Means over the tasks for which a metric is defined."""
    return {name: drawn.interval().estimate for name, drawn in zip(("AUC", "GAUC"), drawn_of([scores], 1), strict=True)}


def drawn_of(days: Sequence[Scores], resamples: int) -> tuple[Bootstrap, Bootstrap]:
    labels, weights, scores, users = (
        np.concatenate([getattr(d, name) for d in days]) for name in ("labels", "weights", "scores", "groups")
    )
    return bootstrap(days[0].tasks, labels, weights, scores, users, resamples)


def pooled(days: dict[str, dict[int, dict[str, Scores]]], names: Sequence[str], resamples: int) -> dict[str, Any]:
    """Of all rows of the days: metrics, positives, and how far the others lie below training anew."""
    drawn = {
        policy: [drawn_of([by_day[n] for n in names], resamples) for by_day in by_seed.values()]
        for policy, by_seed in days.items()
    }
    one = next(iter(next(iter(days.values())).values()))
    tasks = one[names[0]].tasks
    positives = {
        t: int(sum((one[n].labels[:, k] * (one[n].weights[:, k] > 0)).sum() for n in names)) for k, t in enumerate(tasks)
    }
    result: dict[str, Any] = {"positives": positives, "rows": int(sum(len(one[n].groups) for n in names))}
    for index, metric in enumerate(("AUC", "GAUC")):
        mean = {policy: mean_bootstrap([d[index] for d in of_seeds]) for policy, of_seeds in drawn.items()}
        result[metric] = {
            policy: {
                "seeds": [d[index].interval().estimate for d in drawn[policy]],
                "interval": asdict(m.interval()),
                "tasks": dict(zip(m.tasks, m.estimate.tolist(), strict=True)),
                "below_anew": asdict(mean["anew"].minus(m).interval()),
                "below_anew_of_dense_tasks": asdict(mean["anew"].minus(m).only(dense(positives)).interval()),
            }
            for policy, m in mean.items()
        }
    return result


def dense(positives: dict[str, int]) -> list[str]:
    """Tasks with enough positives for a difference of 0.002 to be seen."""
    return [t for t, n in positives.items() if n >= 1000]


def cost(work: Work, policy: str, seeds: int) -> dict[str, Any]:
    """Per day: rows read by preparation and training, and processor seconds, means over seeds. Of the models of all days but
    the first, which is the same for all policies."""
    result: dict[str, Any] = {"days": list(work.days[1:-1])}
    for step in ("prepare", "train"):
        rows, seconds = [], []
        for day in work.days[1:-1]:
            out = work.folder / "anew" / day if policy == "anew" else days_of(work, 0)
            data = out / "data" if policy == "anew" else out / "data" / day
            report = read_json(data / "report.json", "")
            runs = out / "run-0" if policy == "anew" else out / "runs" / day
            epochs = load_config(runs / "config.toml").train.epochs
            rows.append(report["rows_in"] if step == "prepare" else report["rows_out"] * epochs)
            prepared_once = policy == "anew" and step == "prepare"
            measured_seeds = (0,) if prepared_once else range(seeds)
            seconds.append(float(np.mean([work.processor_seconds(f"{policy}/{s}/{day}/{step}") for s in measured_seeds])))
        result[step] = {"rows": rows, "processor_seconds": seconds}
    return result


def start(work: Work) -> float:
    """Processor seconds of an increment of one step: what each training takes, however few rows there are."""
    day, out = work.days[1], days_of(work, 0)
    more = ("--from", out / "runs" / work.days[0])
    work.train("start", 0, out / "data" / day, work.folder / "start", [*INCREMENT, "train.max_steps=1"], *more)
    return work.processor_seconds("start")


def tune(work: Work, ranks: Ranks) -> None:
    """Ranks settings on the days that are not claimed; writes tried.json."""
    few = Work(work.folder / "tune", work.days[: 1 + TUNED])
    few.folder.mkdir(exist_ok=True)
    for name in ("description.toml", "run.toml", "log", "users.parquet", "videos.parquet"):
        if not (few.folder / name).exists():
            (few.folder / name).symlink_to(work.folder / name)
    increments(Work(few.folder, few.days[:1]), 0, ())
    increments(few, 0, TRIED[0])
    tried = []
    for settings in TRIED:
        scores, before = [], days_of(few, 0) / "runs" / few.days[0]
        for day in few.days[1:]:
            data = days_of(few, 0) / "data" / day
            scores.append(scores_of(before, data, ranks))
            if day == few.days[-1]:
                break
            run = few.folder / "tried" / "-".join(settings) / day
            few.train(f"tried/{run.parent.name}/{day}/train", 0, data, run, settings, "--from", before)
            before = run
        tried.append({"policy": "increments", "settings": list(settings), **means_of_all(scores)})
        print(tried[-1], flush=True)
    for epochs in EPOCHS:
        settings = (f"train.epochs={epochs}",)
        anew(few, 0, settings)
        scores = [scores_of(run, data, ranks) for _, run, data in models(few, "anew", 0, settings)]
        tried.append({"policy": "anew", "settings": list(settings), **means_of_all(scores)})
        print(tried[-1], flush=True)
    (work.folder / "tried.json").write_text(json.dumps({"days": list(few.days[1:]), "tried": tried}, indent=1) + "\n")


def means_of_all(days: Sequence[Scores]) -> dict[str, float]:
    """Of the days' rows together; and of the tasks that have many positives alone."""
    drawn = drawn_of(days, 1)
    positives = {t: int(sum(d.labels[:, k].sum() for d in days)) for k, t in enumerate(days[0].tasks)}
    named = dict(zip(("AUC", "GAUC"), drawn, strict=True))
    return {n: d.interval().estimate for n, d in named.items()} | {
        f"{n} of dense tasks": d.only(dense(positives)).interval().estimate for n, d in named.items()
    }


if __name__ == "__main__":
    main()
