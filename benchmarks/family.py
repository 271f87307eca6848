"""Does any model of the family order impressions better than the others, at equal size? With a rolling origin.

    python benchmarks/family.py            # results/family.json, results/family.md; a look in results/quality_looks.jsonl
    python benchmarks/family.py --quick    # one origin, two kinds, few steps, on its validation day; writes nothing

Each kind is trained by `home-dist sweep --rolling`, with the settings of the README's configuration, and widths that give all
kinds the same number of dense parameters. Test days are pooled. Intervals resample users with their rows of all days, drawn
alike for all kinds, after averaging seeds; those of differences hold for all comparisons together (Bonferroni). Complete runs
are not trained again. The recipe was chosen for HoME, on days that two of the origins test.
"""

import argparse
import datetime
import os
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.claims import claim  # noqa: E402
from benchmarks.machine import write_result  # noqa: E402
from benchmarks.quality import CONFIG, DATA, METRICS, ROLLING, commit, look  # noqa: E402
from benchmarks.quality_pool import Pool, home_pool, home_tasks, train_home  # noqa: E402
from home_dist import process  # noqa: E402
from home_dist.metrics import bootstrap, mean_bootstrap  # noqa: E402
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--kinds", default=",".join(WIDTHS), help="to compare, with commas between; home must be among them")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "family", help="folder for runs, one per kind")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    chosen = parser.parse_args()
    kinds = chosen.kinds.split(",")
    if "home" not in kinds or not {*kinds} <= {*WIDTHS}:
        parser.error(f"--kinds: home and others of {', '.join(WIDTHS)}")
    process.silence_libraries()
    if chosen.quick:
        with tempfile.TemporaryDirectory() as scratch:
            runs, overrides = Path(scratch), ["train.max_steps=15", "insight.every_steps=0"]
            result = measured(runs, ["home", "shared_bottom"], 1, 1, "2:2", "validation", overrides, 50)
    else:
        result = measured(chosen.runs, kinds, chosen.seeds, chosen.ranks, ROLLING, "test", chosen.overrides, 1000)
        look(chosen.out / "quality_looks.jsonl", result, "the family at equal size")
        write_result(chosen.out / "family.json", result | {"commit": commit()})
        (chosen.out / "family.md").write_text(table(result) + "\n")
    print(table(result))
    for line in claims(result):
        print(line)


def measured(
    runs: Path, kinds: list[str], seeds: int, ranks: int, rolling: str, split: str, overrides: list[str], draws: int
) -> dict[str, Any]:
    began, tasks, pools = time.perf_counter(), home_tasks(load_schema(DATA / "schema.toml")), {}
    for kind in kinds:
        hidden, dim = WIDTHS[kind]
        settings = [f"model.expert_hidden=[{hidden}]", f"model.expert_dim={dim}", *overrides]
        folder = train_home(CONFIG, runs / kind, rolling, f"model.kind={kind}", seeds, settings, ranks)
        pools[kind] = home_pool(folder, seeds, split, tasks)
        print(f"{kind}: {time.perf_counter() - began:.0f} s", flush=True)
    return compared(pools, draws) | {
        "rolling": rolling,
        "split": split,
        "grid": f"model.kind={','.join(kinds)}",
        "overrides": overrides,
        "seeds": seeds,
        "widths": {kind: WIDTHS[kind] for kind in kinds},
        "machine": f"{os.cpu_count()} cores",
        "seconds": time.perf_counter() - began,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "tasks": tasks,
        "resamples": draws,
    }


def compared(pools: dict[str, Pool], resamples: int) -> dict[str, Any]:
    """systems: by kind; home_minus: by other kind, with the interval that holds for all comparisons together."""
    means = {}
    for kind, pool in pools.items():
        drawn = [
            bootstrap(pool.tasks, pool.labels, pool.weights, s, pool.users, resamples, within=pool.days)
            for s in pool.scores["HoME"]
        ]
        means[kind] = [mean_bootstrap([b[i] for b in drawn]) for i in range(2)]
        means[kind].append([[b[i].interval().estimate for b in drawn] for i in range(2)])
    systems = {
        kind: {
            metric: {
                "mean": found[i].interval().estimate,
                "interval": asdict(found[i].interval()),
                "seeds": found[2][i],
                "tasks": {t: found[i].interval(t).estimate for t in pools[kind].tasks},
            }
            for i, metric in enumerate(METRICS)
        }
        for kind, found in means.items()
    }
    others = [kind for kind in pools if kind != "home"]
    level = 1 - 0.05 / max(1, len(others) * len(METRICS))
    differences = {
        kind: {metric: asdict(means["home"][i].minus(means[kind][i]).interval(level=level)) for i, metric in enumerate(METRICS)}
        for kind in others
    }
    rows = len(next(iter(pools.values())).users)
    return {"systems": systems, "home_minus": differences, "level": level, "rows": rows}


def table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['rows']:,} impressions of pooled {result['split']} days (origins {result['rolling']}), "
        f"{len(result['tasks'])} tasks, {result['seeds']} seed(s) of each kind, at equal numbers of dense parameters.",
        "",
        "| kind | mean AUC | interval | mean GAUC | interval | seeds, AUC / GAUC |",
        "|---|---|---|---|---|---|",
    ]
    for kind, found in result["systems"].items():
        cells = []
        for metric in METRICS:
            interval = found[metric]["interval"]
            cells += [f"{found[metric]['mean']:.4f}", f"{interval['low']:.4f} to {interval['high']:.4f}"]
        spread = "; ".join(f"{a:.4f} / {g:.4f}" for a, g in zip(found["AUC"]["seeds"], found["GAUC"]["seeds"], strict=True))
        lines.append(f"| {kind} | {' | '.join(cells)} | {spread} |")
    lines += ["", f"Differences, with intervals of {result['level']:.2%}, so that all hold together in 95 %:", ""]
    lines += ["| HoME minus | AUC | interval | GAUC | interval |", "|---|---|---|---|---|"]
    for kind, found in result["home_minus"].items():
        cells = [f"{d['estimate']:+.4f} | {d['low']:+.4f} to {d['high']:+.4f}" for d in (found["AUC"], found["GAUC"])]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def claims(result: dict[str, Any]) -> list[str]:
    return [
        claim(f"{metric} of HoME minus {kind}, low end of its interval", found[metric]["low"], 0.0, form="+.4f")
        for kind, found in result["home_minus"].items()
        for metric in METRICS
    ]


if __name__ == "__main__":
    main()
