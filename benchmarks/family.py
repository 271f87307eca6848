"""Does any model of the family order impressions better than the others, at equal size? With a rolling origin.

    python benchmarks/family.py            # results/family.json, results/family.md; a look in results/quality_looks.jsonl
    python benchmarks/family.py --quick    # one origin, two kinds, few steps, on its validation day; writes nothing

Each kind is trained by `home-dist sweep --rolling`, with the settings of the README's configuration, and widths that give all
kinds the same number of dense parameters. Test days are pooled. Intervals resample users with their rows of all days, drawn
alike for all kinds, after averaging seeds; those of differences hold for all comparisons together (Bonferroni). Complete runs
are not trained again.

The recipe was chosen for HoME, its rates on days 5 to 9, dropout and how many ids to keep on days that two of the origins test.
With --rates each kind takes the dense learning rate that has the lowest log loss on day 9, before the first test day.
"""

import argparse
import datetime
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

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
from home_dist.metrics import log_loss  # noqa: E402
from home_dist.schema import load_schema  # noqa: E402

WIDTHS = {
    "home": (64, 32),
    "single_task": (110, 55),
    "shared_bottom": (668, 334),
    "mmoe": (104, 52),
    "cgc": (82, 41),
    "ple": (76, 38),
    "adatt": (82, 41),
    "smes": (50, 25),
}
"""By kind: an expert's hidden width and output, for some 757,000 parameters of experts, gates and trunks on 800 features."""

FIRST = f"{origins_of(ROLLING)[0]}:{origins_of(ROLLING)[0]}"
"""The first origin, whose validation day comes before all test days."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--kinds", default=",".join(WIDTHS), help="to compare, with commas between; home must be among them")
    parser.add_argument("--rates", default="", help="dense rates that each kind chooses from, with commas between")
    parser.add_argument("--rate-seeds", type=int, default=3, help="of each of them")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "family", help="folder for runs, one per kind")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    chosen = parser.parse_args()
    kinds = sorted(chosen.kinds.split(","), key=lambda kind: kind != "home")  # others are compared with it
    if "home" not in kinds or not {*kinds} <= {*WIDTHS}:
        parser.error(f"--kinds: home and others of {', '.join(WIDTHS)}")
    process.silence_libraries()
    if chosen.quick:
        with tempfile.TemporaryDirectory() as scratch:
            runs, overrides = Path(scratch), ["train.max_steps=15", "insight.every_steps=0"]
            result = measured(runs, ["home", "shared_bottom"], 1, 1, "2:2", "validation", overrides, 50, {})
    else:
        rates = chosen.rates.split(",") if chosen.rates else []
        seeds = chosen.rate_seeds
        found = {kind: losses(chosen.runs, kind, rates, seeds, chosen.ranks, chosen.overrides) for kind in kinds if rates}
        result = measured(chosen.runs, kinds, chosen.seeds, chosen.ranks, ROLLING, "test", chosen.overrides, 1000, found)
        look(chosen.out / "quality_looks.jsonl", result, "the family at equal size")
        write_result(chosen.out / "family.json", result | {"commit": commit()})
        (chosen.out / "family.md").write_text(table(result) + "\n")
    print(table(result))
    for line in claims(result):
        print(line)


def settings_of(kind: str, overrides: list[str]) -> list[str]:
    hidden, dim = WIDTHS[kind]
    return [f"model.expert_hidden=[{hidden}]", f"model.expert_dim={dim}", *overrides]


def losses(runs: Path, kind: str, rates: list[str], seeds: int, ranks: int, overrides: list[str]) -> dict[str, float]:
    """By dense rate: log loss on the validation day of the first origin, the mean over tasks and seeds."""
    found, tasks = {}, home_tasks(load_schema(DATA / "schema.toml"))
    for rate in rates:
        settings = [f"model.kind={kind}", *settings_of(kind, overrides)]
        folder = train_home(CONFIG, runs / f"{kind}_rates", FIRST, f"train.lr={rate}", seeds, settings, ranks)
        pool = home_pool(folder, seeds, "validation", tasks)
        [of_seeds] = pool.scores.values()
        found[rate] = float(
            np.mean([log_loss(pool.labels[:, k], s[:, k], pool.weights[:, k]) for s in of_seeds for k in range(len(tasks))])
        )
    print(f"{kind}: log loss {', '.join(f'{loss:.5f} at {rate}' for rate, loss in found.items())}", flush=True)
    return found


def measured(
    runs: Path,
    kinds: list[str],
    seeds: int,
    ranks: int,
    rolling: str,
    split: str,
    overrides: list[str],
    draws: int,
    rates: dict[str, dict[str, float]],
) -> dict[str, Any]:
    """rates: by kind, the log loss of each dense rate that it can take; of none, all take the configuration's."""
    began, tasks = time.perf_counter(), home_tasks(load_schema(DATA / "schema.toml"))
    pool: Pool | None = None
    for kind in kinds:
        settings, folder = settings_of(kind, overrides), runs / kind
        if kind in rates:
            best = min(rates[kind], key=rates[kind].__getitem__)
            settings, folder = [*settings, f"train.lr={best}"], runs / f"{kind}_{best}"
        folder = train_home(CONFIG, folder, rolling, f"model.kind={kind}", seeds, settings, ranks)
        scored = home_pool(folder, seeds, split, tasks)
        pool = scored if pool is None else pool.beside(kind, scored)
        print(f"{kind}: {time.perf_counter() - began:.0f} s", flush=True)
    level = 1 - 0.05 / (max(1, len(kinds) - 1) * len(METRICS))
    return compared(pool, draws, level) | {
        "level": level,
        "rolling": rolling,
        "split": split,
        "grid": f"model.kind={','.join(kinds)}",
        "overrides": overrides,
        "seeds": seeds,
        "widths": {kind: WIDTHS[kind] for kind in kinds},
        "rates": rates,
        "machine": f"{os.cpu_count()} cores",
        "seconds": time.perf_counter() - began,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "tasks": tasks,
        "resamples": draws,
    }


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


def rates_table(rates: dict[str, dict[str, float]]) -> list[str]:
    if not rates:
        return []
    tried = list(next(iter(rates.values())))
    lines = ["Log loss on day 9 by dense rate; each kind took the rate of its lowest:", ""]
    lines += [f"| kind | {' | '.join(tried)} |", "|---" * (1 + len(tried)) + "|"]
    return [*lines, *(f"| {k} | {' | '.join(f'{x:.5f}' for x in found.values())} |" for k, found in rates.items()), ""]


if __name__ == "__main__":
    main()
