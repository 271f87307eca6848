"""What pays in HoME's recipe on the KuaiRand sample? One change at a time, compared on validation days.

    python benchmarks/recipe.py                # results/recipe.json, results/recipe.md
    python benchmarks/recipe.py --raw FOLDER   # with the parts that need the published files (pipelines/kuairand.py)
    python benchmarks/recipe.py --parts "uncertainty weighting" --seeds 3 --name recipe_seeds    # one of them, with more seeds
    python benchmarks/recipe.py --parts "twice the dense rate;three times the dense rate" --seeds 1 --name recipe_rates
    python benchmarks/recipe.py --at "five times the dense rate, ..." --name recipe_at_rates    # parts change that recipe
    python benchmarks/recipe.py --quick        # one origin, two parts, few steps; writes nothing

For each day t of 4 to 8 a model learns on days 1 to t and is compared on day t + 1; vocabularies, boundaries and rates are
fitted on days 1 to t. These days, 5 to 9, end before the first test day of quality.py and family.py, day 10: what is chosen
here has seen none of theirs. The recipe is the former one (FORMER), from which the rates of configs/kuairand_pure.toml were
found; parts change what their names tell, and nothing else. All have the same seeds and days. Intervals resample users with
their rows of all days, drawn alike for all parts, after averaging seeds. They do not hold what another seed would give, which
the spread of seeds tells, and are of one comparison each: of 20 parts that do nothing, one is expected beyond its interval.

Complete runs are not trained again.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.claims import claim  # noqa: E402
from benchmarks.machine import write_result  # noqa: E402
from benchmarks.quality import CONFIG, DATA, commit  # noqa: E402
from benchmarks.quality_pool import Pool, home_pool, home_tasks, origins_of, train_home  # noqa: E402
from benchmarks.recipe_data import VECTORS, write_variant  # noqa: E402
from benchmarks.recipe_teachers import write_taught  # noqa: E402
from home_dist import process  # noqa: E402
from home_dist.metrics import Bootstrap, bootstrap, bootstrap_log_loss, mean_bootstrap  # noqa: E402
from home_dist.prepare.kuairand.log import GROUPS  # noqa: E402
from home_dist.schema import load_schema  # noqa: E402
from home_dist.training.sweep import folder_name  # noqa: E402

ROLLING, SEEDS = "4:8", 2
BASE, ENSEMBLE = "the recipe", "mean of the seeds' predictions"
METRICS = ("AUC", "GAUC", "log loss")
_TASKS = (*GROUPS["interaction"], *GROUPS["watch"], "watch_seconds")


@dataclass(frozen=True)
class Part:
    """settings: of a run, in which {data} stands for the data's folder; data: a variant of recipe_data.py; teachers: the part
    whose runs of all seeds it learns from; kind: of the model."""

    settings: tuple[str, ...] = ()
    data: str | None = None
    teachers: str | None = None
    kind: str = "home"


FORMER = ("train.lr=1e-3", "embedding.lr=0.02")
"""The recipe that parts change, in batches of 512."""
_RATES = ("train.lr=5e-3", "embedding.lr=0.004", "train.batch_size=1024")
RATES = "five times the dense rate, a fifth of the tables', batches of 1,024"
"""What configs/kuairand_pure.toml has taken: two ranks make batches of 1,024."""
_RARE = "train.task_weights={like=3,follow=10,comment=10,forward=10,profile_enter=3}"
_NO_FEATURE = ("data.exclude=['co_watch']",)
_MORE_DROPOUT = ("model.dropout=0.2", "embedding.dropout=0.2")
PARTS: Mapping[str, Part] = {
    "sparse tasks' heads with shared bias": Part(kind="benchmarks.shared_bias:SharedBias"),
    "uncertainty weighting": Part(("train.weighting=uncertainty",)),
    "moving average": Part(("train.ema.decay=0.99", "train.ema.use=true")),
    "no dropout": Part(("model.dropout=0", "embedding.dropout=0")),
    "dropout 0.2": Part(_MORE_DROPOUT),
    "decay of dense weights 0.1": Part(("train.weight_decay=0.1",)),
    "decay of small tables 0.3": Part(("embedding.replicated_weight_decay=0.3",)),
    "half the tables' rate": Part(("embedding.lr=0.01",)),
    "half the dense rate": Part(("train.lr=5e-4",)),
    "twice the dense rate": Part(("train.lr=2e-3",)),
    "three times the dense rate": Part(("train.lr=3e-3",)),
    "three times the dense rate, half the tables'": Part(("train.lr=3e-3", "embedding.lr=0.01")),
    "three times the dense rate, a seventh of the tables'": Part(("train.lr=3e-3", "embedding.lr=0.003")),
    "three times the dense rate, a twentieth of the tables'": Part(("train.lr=3e-3", "embedding.lr=0.001")),
    "three times the dense rate, a seventh of the tables', dropout 0.2": Part(
        ("train.lr=3e-3", "embedding.lr=0.003", *_MORE_DROPOUT)
    ),
    "three times the dense rate, a seventh of the tables', more weight to rare tasks": Part(
        ("train.lr=3e-3", "embedding.lr=0.003", _RARE)
    ),
    "five times the dense rate, a seventh of the tables'": Part(("train.lr=5e-3", "embedding.lr=0.003")),
    RATES: Part(_RATES),
    "eight times the dense rate, a fifth of the tables', batches of 1,024": Part(
        ("train.lr=8e-3", "embedding.lr=0.004", "train.batch_size=1024")
    ),
    "three times the dense rate, one epoch": Part(("train.lr=3e-3", "train.epochs=1")),
    "six times the dense rate, one epoch": Part(("train.lr=6e-3", "train.epochs=1")),
    "three times the dense rate, one epoch, more weight to rare tasks": Part(("train.lr=3e-3", "train.epochs=1", _RARE)),
    "six times the dense rate, one epoch, more weight to rare tasks": Part(("train.lr=6e-3", "train.epochs=1", _RARE)),
    "at those rates, distilled from the mean of its seeds": Part((*_RATES, "train.distillation.weight=0.5"), teachers=RATES),
    "one epoch": Part(("train.epochs=1",)),
    "three epochs": Part(("train.epochs=3",)),
    "Adagrad per weight": Part(("embedding.optimizer=adagrad",)),
    "tables of half the width": Part(("embedding.dim=8", "embedding.small_dim=4")),
    "without the user's id": Part(("data.exclude=['user']",)),
    "watch time as a ninth task": Part((f"data.tasks={list(_TASKS)}",)),
    "TWIN": Part(("sequence.0.kind=twin",)),
    "history of 200": Part((), "long"),
    "SIM on a history of 200": Part(("sequence.0.kind=sim",), "long"),
    "rates that forget": Part((), "decayed"),
    "the user's rates by hour": Part((), "hours"),
    "vectors of videos watched together": Part((), VECTORS),
    "videos begin with those vectors": Part((*_NO_FEATURE, "embedding.tables.video.start={data}/starts"), VECTORS),
    "videos begin with a fifth of those vectors": Part(
        (*_NO_FEATURE, "embedding.tables.video.start={data}/starts_small"), VECTORS
    ),
}
"""Rates of embeddings by frequency are what row-wise Adagrad does already."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--raw", type=Path, help="folder of the published files; without it parts that need them are left out")
    parser.add_argument("--parts", default="", help="names, with semicolons between; by default all")
    parser.add_argument("--with", default="", dest="together", metavar="PARTS", help="names whose union is a further part")
    parser.add_argument("--at", default="", metavar="PART", help="the recipe that parts change; by default the former one")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--rolling", default=ROLLING, help=f"first and last origin; by default {ROLLING}")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="parts trained at a time, a thread each")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "recipe", help="folder for data and runs")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help="of all parts")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--name", default="recipe", help="of the results' files; by default recipe")
    chosen = parser.parse_args()
    parts = {name: part for name, part in PARTS.items() if part.data is None or chosen.raw}
    for name in filter(None, [*chosen.parts.split(";"), *chosen.together.split(";"), chosen.at]):
        if name not in PARTS:
            parser.error(f"no part {name!r}; there are {'; '.join(PARTS)}")
        if name not in parts:
            parser.error(f"part {name!r} needs the published files: --raw FOLDER")
    if chosen.at and PARTS[chosen.at] != Part(PARTS[chosen.at].settings):
        parser.error(f"--at: part {chosen.at!r} has more than settings")
    if chosen.at and chosen.quick:
        parser.error("--at: --quick tries the former recipe alone")
    if chosen.together:
        parts["together: " + chosen.together.replace(";", ", ")] = union([PARTS[n] for n in chosen.together.split(";")])
    parts = {n: p for n, p in parts.items() if not chosen.parts or n in chosen.parts.split(";") or n.startswith("together")}
    for part in parts.values() if chosen.at else ():
        refuse_two_values([PARTS[chosen.at].settings, part.settings])
    for name, part in parts.items():
        if part.teachers is not None and part.teachers not in parts:
            parser.error(f"part {name!r} learns from {part.teachers!r}, which must be among --parts")
    process.silence_libraries()
    if chosen.quick:
        few = {"moving average": PARTS["moving average"]}
        overrides = ["train.max_steps=15", "insight.every_steps=0", *chosen.overrides]
        with tempfile.TemporaryDirectory() as scratch:
            result = measured(Path(scratch), few, None, 1, "2:2", 2, overrides, 50, "")
        print(table(result))
    else:
        where = chosen.seeds, chosen.rolling, chosen.jobs, chosen.overrides, 1000
        result = measured(chosen.runs, parts, chosen.raw, *where, chosen.at)
        write_result(chosen.out / f"{chosen.name}.json", result | {"commit": commit()})
        (chosen.out / f"{chosen.name}.md").write_text(table(result) + "\n")
        print(table(result))
    for line in claims(result):
        print(line)


def union(parts: Sequence[Part]) -> Part:
    """All settings of some parts. Raises SystemExit for two that need different data or models."""
    data = {part.data for part in parts if part.data}
    if len(data) > 1:
        raise SystemExit(f"--with: parts with different data: {', '.join(sorted(data))}")
    kinds = {part.kind for part in parts} - {Part.kind}
    if len(kinds) > 1:
        raise SystemExit(f"--with: parts with different models: {', '.join(sorted(kinds))}")
    refuse_two_values([part.settings for part in parts])
    return Part(
        tuple(s for part in parts for s in part.settings),
        data.pop() if data else None,
        kind=kinds.pop() if kinds else Part.kind,
    )


def refuse_two_values(settings: Sequence[Sequence[str]]) -> None:
    """Raises SystemExit where one of the parts' settings would undo another's."""
    given: dict[str, str] = {}
    for key, _, value in (setting.partition("=") for of_part in settings for setting in of_part):
        if given.setdefault(key, value) != value:
            raise SystemExit(f"{key}: two parts set it, to {given[key]} and {value}")


def measured(
    runs: Path,
    parts: Mapping[str, Part],
    raw: Path | None,
    seeds: int,
    rolling: str,
    jobs: int,
    overrides: Sequence[str],
    draws: int,
    at: str,
) -> dict[str, Any]:
    """at: the part whose settings the recipe has, beside the former ones; empty for none."""
    began, tasks = time.perf_counter(), home_tasks(load_schema(DATA / "schema.toml"))
    for name in sorted({p.data for p in parts.values() if p.data}):
        assert raw is not None
        write_variant(name, raw, DATA, runs / "data" / name, lambda _: None)

    def folder_of(name: str) -> Path:
        return Path(runs, *("".join(c if c.isalnum() else "_" for c in part) for part in (at, name) if part))

    def trained(item: tuple[str, Part]) -> Pool:
        name, part = item
        place, folder = runs / "data" / (part.data or ""), folder_of(name)
        if part.teachers is not None:
            teachers = folder_of(part.teachers) / folder_name(f"model.kind={parts[part.teachers].kind}")
            write_taught(teachers, seeds, origins_of(rolling), folder)
        data = [f"data.path={place}"] if part.data else []
        own = [s.replace("{data}", str(place)) for s in part.settings]
        settings = [*data, *FORMER, *(PARTS[at].settings if at else ()), *overrides, *own]
        chosen = train_home(CONFIG, folder, rolling, f"model.kind={part.kind}", seeds, settings, 1, 1)
        found = home_pool(chosen, seeds, "validation", tasks)
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
        return found

    with ThreadPoolExecutor(jobs) as pool:
        found: dict[str, Pool] = {}
        for taught in (False, True):  # teachers before their pupils
            items = [(n, p) for n, p in [(BASE, Part()), *parts.items()] if (p.teachers is not None) == taught]
            found |= zip([n for n, _ in items], pool.map(trained, items), strict=True)
    found = {name: found[name] for name in (BASE, *parts)}
    base = found[BASE]
    [of_seeds] = base.scores.values()
    scores = {BASE: of_seeds, **({ENSEMBLE: [np.mean(of_seeds, axis=0)]} if seeds > 1 else {})}
    for name in parts:
        scores[name] = base.beside(name, found[name]).scores[name]
        if name == RATES and seeds > 1:
            scores[f"{name}: {ENSEMBLE}"] = [np.mean(scores[name], axis=0)]
    return compared(base, scores, draws) | {
        "settings": {name: settings_told(part) for name, part in parts.items()},
        "at": at,
        "rolling": rolling,
        "seeds": seeds,
        "overrides": list(overrides),
        "resamples": draws,
        "seconds": time.perf_counter() - began,
    }


def settings_told(part: Part) -> list[str]:
    told = [f"data: {part.data}"] if part.data else []
    return [*([f"model.kind={part.kind}"] if part.kind != Part.kind else []), *part.settings, *told]


def compared(pool: Pool, scores: Mapping[str, Sequence[np.ndarray]], resamples: int) -> dict[str, Any]:
    """scores: by part, of each seed, the first that of the recipe as it is."""

    def drawn(s: np.ndarray) -> tuple[Bootstrap, Bootstrap, Bootstrap]:
        rows = pool.tasks, pool.labels, pool.weights, s, pool.users
        return *bootstrap(*rows, resamples, within=pool.days), bootstrap_log_loss(*rows, resamples)

    by_seed = {name: [drawn(s) for s in of_seeds] for name, of_seeds in scores.items()}
    means = {name: [mean_bootstrap([d[i] for d in found]) for i in range(len(METRICS))] for name, found in by_seed.items()}
    parts: dict[str, Any] = {}
    for name, found in means.items():
        parts[name] = {
            metric: {
                "mean": found[i].interval().estimate,
                "seeds": [d[i].interval().estimate for d in by_seed[name]],
                **({"gain": asdict(found[i].minus(means[BASE][i]).interval())} if name != BASE else {}),
            }
            for i, metric in enumerate(METRICS)
        }
    return {"parts": parts, "rows": len(pool.users), "days": len(np.unique(pool.days)), "tasks": pool.tasks}


def table(result: dict[str, Any]) -> str:
    parts, base = result["parts"], result["parts"][BASE]
    at = f", which is the former one with {result['at']}" if result["at"] else ""
    lines = [
        f"{result['rows']:,} impressions of {result['days']} pooled validation days (origins {result['rolling']}), "
        f"{len(result['tasks'])} tasks, {result['seeds']} seed(s). The recipe{at}: AUC {base['AUC']['mean']:.4f}, GAUC "
        f"{base['GAUC']['mean']:.4f}, log loss {base['log loss']['mean']:.5f}"
        f" (seeds: {'; '.join(f'{a:.4f}/{g:.4f}' for a, g in zip(base['AUC']['seeds'], base['GAUC']['seeds'], strict=True))}).",
        "",
        "| change | AUC gained | interval | GAUC gained | interval | log loss | interval |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in parts.items():
        if name != BASE:
            cells = [
                f"{g['estimate']:+.{d}f} | {g['low']:+.{d}f} to {g['high']:+.{d}f}"
                for g, d in ((found[m]["gain"], 5 if m == "log loss" else 4) for m in METRICS)
            ]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def claims(result: dict[str, Any]) -> list[str]:
    """A part pays where the low end of its interval is above 0."""
    return [
        claim(f"{metric} gained by {name}, low end of its interval", found[metric]["gain"]["low"], 0.0, form="+.4f")
        for name, found in result["parts"].items()
        if name != BASE
        for metric in ("AUC", "GAUC")
    ]


if __name__ == "__main__":
    main()
