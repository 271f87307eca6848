"""Does any model of the family order impressions better than the others, at equal size? With a rolling origin.

    python benchmarks/family.py            # results/family.json, .md and .png; a look in results/quality_looks.jsonl
    python benchmarks/family.py --quick    # one origin, two kinds, few steps, on its validation day; writes nothing

Each kind is trained by `home-dist sweep --rolling`, with the settings of the README's configuration, and widths that give all
kinds the same number of dense parameters. Test days are pooled. Intervals resample users with their rows of all days, drawn
alike for all kinds, after averaging seeds; those of differences hold for all comparisons together (Bonferroni). Complete runs
are not trained again.

The recipe was chosen for HoME, its rates on days 5 to 9, dropout and how many ids to keep on days that two of the origins test.
With --rates each kind takes the dense learning rate that has the highest mean AUC on day 9, before the first test day; where
that is the lowest or highest rate, further ones are tried. HoME without a part takes HoME's.
"""

import argparse
import datetime
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.machine import write_result  # noqa: E402
from benchmarks.quality import (  # noqa: E402
    CONFIG,
    DATA,
    METRICS,
    ROLLING,
    claims,
    commit,
    compared,
    differences_table,
    look,
    systems_table,
)
from benchmarks.quality_pool import Pool, home_pool, home_tasks, origins_of, train_home  # noqa: E402
from home_dist import process  # noqa: E402
from home_dist.insight.svg import pyplot  # noqa: E402
from home_dist.metrics import auc, log_loss  # noqa: E402
from home_dist.schema import load_schema  # noqa: E402

Found = TypeVar("Found")
ByRate = Mapping[str, Mapping[str, float]]
"""By dense rate: by name, figures."""


@dataclass(frozen=True)
class Member:
    """hidden, dim: an expert's hidden width and output."""

    kind: str
    hidden: int
    dim: int
    settings: tuple[str, ...] = ()

    def run_settings(self, overrides: Sequence[str]) -> list[str]:
        return [f"model.expert_hidden=[{self.hidden}]", f"model.expert_dim={self.dim}", *self.settings, *overrides]


FAMILY: Mapping[str, Member] = {
    "home": Member("home", 64, 32),
    "single_task": Member("single_task", 110, 55),
    "shared_bottom": Member("shared_bottom", 668, 334),
    "mmoe": Member("mmoe", 104, 52),
    "cgc": Member("cgc", 82, 41),
    "ple": Member("ple", 76, 38),
    "adatt": Member("adatt", 82, 41),
    "smes": Member("smes", 50, 25),
    "home_without_expert_norm": Member("home", 64, 32, ("model.expert_norm=false",)),
    "home_without_hierarchy_mask": Member("home", 64, 32, ("model.hierarchy_mask=false",)),
    "home_without_feature_gate": Member("home", 106, 53, ("model.feature_gate=false",)),
    "home_without_self_gate": Member("home", 66, 33, ("model.self_gate=false",)),
}
"""Kinds and HoME without one of its parts, with some 757,000 parameters of experts, gates and trunks on 800 features."""

FIRST = f"{origins_of(ROLLING)[0]}:{origins_of(ROLLING)[0]}"
"""The first origin, whose validation day comes before all test days."""
FURTHER = 2
"""How often the rates are extended, by half or twice the best one where it is an end."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--kinds", default=",".join(FAMILY), help="to compare, with commas between; home must be among them")
    parser.add_argument("--rates", default="", help="dense rates that each kind chooses from, with commas between")
    parser.add_argument("--rate-seeds", type=int, default=3, help="of each of them")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="kinds trained at a time, which share the cores")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "family", help="folder for runs, one per kind")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    chosen = parser.parse_args()
    kinds = sorted(chosen.kinds.split(","), key=lambda kind: kind != "home")  # others are compared with it
    if "home" not in kinds or not {*kinds} <= {*FAMILY}:
        parser.error(f"--kinds: home and others of {', '.join(FAMILY)}")
    process.silence_libraries()
    if chosen.quick:
        with tempfile.TemporaryDirectory() as scratch:
            runs, overrides = Path(scratch), ["train.max_steps=15", "insight.every_steps=0"]
            result = measured(Training(runs, 1, 1, overrides), ["home", "shared_bottom"], 1, "2:2", "validation", 50, {})
    else:
        rates, seeds = rates_of(chosen.rates), chosen.rate_seeds
        how = Training(chosen.runs, chosen.ranks, chosen.jobs, chosen.overrides)
        choose = [kind for kind in kinds if rates and not FAMILY[kind].settings]
        found = dict(zip(choose, how.each(lambda kind: tuned(how, kind, rates, seeds), choose), strict=True))
        result = measured(how, kinds, chosen.seeds, ROLLING, "test", 1000, found)
        look(chosen.out / "quality_looks.jsonl", result, "the family at equal size")
        write_result(chosen.out / "family.json", result | {"commit": commit()})
        (chosen.out / "family.md").write_text(table(result) + "\n\n![differences](family.png)\n")
        picture(result, chosen.out / "family.png")
    print(table(result))
    for line in claims(result):
        print(line)


@dataclass(frozen=True)
class Training:
    """How runs are trained. runs: the folder for them; ranks: of a run; jobs: kinds at a time; overrides: of all runs."""

    runs: Path
    ranks: int
    jobs: int
    overrides: Sequence[str]

    def each(self, work: Callable[[str], Found], kinds: Sequence[str]) -> list[Found]:
        with ThreadPoolExecutor(self.jobs) as pool:
            return list(pool.map(work, kinds))

    def train(self, kind: str, folder: str, rolling: str, grid: str, seeds: int, settings: Sequence[str] = ()) -> Path:
        """Returns the folder of the pools of `grid`'s runs."""
        settings = [*FAMILY[kind].run_settings(self.overrides), *settings]
        threads = max(1, len(os.sched_getaffinity(0)) // (self.ranks * self.jobs))
        return train_home(CONFIG, self.runs / folder, rolling, grid, seeds, settings, self.ranks, threads)


def rates_of(text: str) -> list[str]:
    """In one writing, in order."""
    return [f"{rate:g}" for rate in sorted({float(rate) for rate in text.split(",")})] if text else []


def tuned(how: Training, kind: str, rates: Sequence[str], seeds: int) -> ByRate:
    """Figures of all dense rates that were tried."""
    found: dict[str, dict[str, float]] = {}
    tried = sorted(rates, key=float)
    for _ in range(1 + FURTHER):
        found |= {rate: on_first_day(how, kind, rate, seeds) for rate in tried if rate not in found}
        best = best_rate(found)
        beyond = [factor for end, factor in ((tried[0], 0.5), (tried[-1], 2.0)) if end == best]
        tried = sorted([*tried, *(f"{float(best) * factor:g}" for factor in beyond)], key=float)
    told = (f"{of['AUC']:.4f} / {of['log loss']:.5f} at {rate}" for rate, of in found.items())
    print(f"{kind}: AUC / log loss {', '.join(told)}", flush=True)
    return found


def best_rate(by_rate: ByRate) -> str:
    return max(by_rate, key=lambda rate: by_rate[rate]["AUC"])


def on_first_day(how: Training, kind: str, rate: str, seeds: int) -> dict[str, float]:
    """AUC and log loss on the validation day of the first origin, means over tasks and seeds."""
    folder = how.train(kind, f"{kind}_rates", FIRST, f"train.lr={rate}", seeds, [f"model.kind={FAMILY[kind].kind}"])
    pool = home_pool(folder, seeds, "validation", home_tasks(load_schema(DATA / "schema.toml")))
    [of_seeds] = pool.scores.values()
    by_task = [(pool.labels[:, k], s[:, k], pool.weights[:, k]) for s in of_seeds for k in range(len(pool.tasks))]
    figures = {"AUC": float(np.mean([auc(*t) for t in by_task])), "log loss": float(np.mean([log_loss(*t) for t in by_task]))}
    if not np.isfinite(list(figures.values())).all():
        raise SystemExit(f"{kind} at {rate}: {figures} on the first validation day; is there a task without positives?")
    return figures


def measured(
    how: Training,
    kinds: Sequence[str],
    seeds: int,
    rolling: str,
    split: str,
    draws: int,
    rates: Mapping[str, ByRate],
) -> dict[str, Any]:
    """rates: by kind, figures of each dense rate that it can take; of none, all take the configuration's."""
    began, tasks = time.perf_counter(), home_tasks(load_schema(DATA / "schema.toml"))

    def scored(kind: str) -> Pool:
        folder, settings = kind, []
        if by_rate := rates.get(FAMILY[kind].kind):
            best = best_rate(by_rate)
            folder, settings = f"{kind}_{best}", [f"train.lr={best}"]
        found = how.train(kind, folder, rolling, f"model.kind={FAMILY[kind].kind}", seeds, settings)
        print(f"{kind}: {time.perf_counter() - began:.0f} s", flush=True)
        return home_pool(found, seeds, split, tasks)

    pool, *others = how.each(scored, kinds)
    for kind, other in zip(kinds[1:], others, strict=True):
        pool = pool.beside(kind, other)
    level = 1 - 0.05 / (max(1, len(kinds) - 1) * len(METRICS))
    return compared(pool, draws, level) | {
        "level": level,
        "rolling": rolling,
        "split": split,
        "grid": ",".join(kinds),
        "overrides": list(how.overrides),
        "seeds": seeds,
        "members": {kind: asdict(FAMILY[kind]) for kind in kinds},
        "rates": {kind: dict(by_rate) for kind, by_rate in rates.items()},
        "machine": f"{os.cpu_count()} cores",
        "seconds": time.perf_counter() - began,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "tasks": tasks,
        "resamples": draws,
    }


def picture(result: dict[str, Any], path: Path) -> None:
    """What HoME is ahead of the others, with intervals that hold together."""
    others = list(result["home_minus"])[::-1]
    figure, panels = pyplot.subplots(1, len(METRICS), figsize=(9, 0.8 + 0.3 * len(others)), sharey=True, layout="constrained")
    for axes, metric in zip(panels, METRICS, strict=True):
        found = [result["home_minus"][other][metric] for other in others]
        middle = [f["estimate"] for f in found]
        ends = [[f["estimate"] - f["low"] for f in found], [f["high"] - f["estimate"] for f in found]]
        axes.errorbar(middle, range(len(others)), xerr=ends, fmt="o", markersize=5, capsize=3)
        axes.axvline(0, color="0.4", linewidth=1)
        axes.grid(axis="x", alpha=0.3)
        axes.locator_params(axis="x", nbins=6)
        axes.set_xlabel(f"mean {metric} of HoME minus that of the other")
        axes.set_yticks(range(len(others)), [other.replace("_", " ") for other in others])
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['rows']:,} impressions of {result['days']} pooled {result['split']} days (origins {result['rolling']}), "
        f"{len(result['tasks'])} tasks, {result['seeds']} seed(s) of each kind, at equal numbers of dense parameters.",
        "",
        *rates_table(result["rates"]),
        *systems_table(result),
        "",
        f"Differences, with intervals of {result['level']:.2%}, so that all hold together in 95 %:",
        "",
        *differences_table(result),
    ]
    return "\n".join(lines)


def rates_table(rates: Mapping[str, ByRate]) -> list[str]:
    if not rates:
        return []
    tried = sorted({rate for by_rate in rates.values() for rate in by_rate}, key=float)
    lines = ["AUC / log loss on day 9 by dense rate; each kind took the rate of its highest AUC:", ""]
    lines += [f"| kind | {' | '.join(tried)} |", "|---" * (1 + len(tried)) + "|"]
    for kind, by_rate in rates.items():
        cells = [f"{by_rate[r]['AUC']:.4f} / {by_rate[r]['log loss']:.5f}" if r in by_rate else "" for r in tried]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return [*lines, ""]


if __name__ == "__main__":
    main()
