"""HoME (Wang et al. 2024): does it score better than others, by which of its parts, and for the reason it gives?

    python benchmarks/papers/home.py planted     # generated logs with controls; an hour on 2 cores
    python benchmarks/papers/home.py kuairand    # the KuaiRand-Pure sample; half an hour
    python benchmarks/papers/home.py planted --quick     # two models, one seed, few samples, under 50 s; writes nothing

planted: the three worlds of planted_log.py, two of which are controls. All models have as many parameters as MMoE with 8
experts of [32, 16], by their hidden width, and take the best of three learning rates by validation AUC in the first world.
"HoME, only ..." has one of its four parts, "HoME, none" is its two levels of experts without any; PLE takes three of them as
options, the mask needs groups of experts. In the first world HoME is also trained with tasks in wrong and in random groups.

kuairand: configs/kuairand_pure.toml with each model in the place of HoME, and HoME without each part and with other groups. All
have as many parameters as HoME there, by their hidden width, and take the better of two learning rates by validation AUC.

Told are AUC and GAUC on the test split, means over tasks and then over seeds; what the findings (home_dist/insight/rules.py)
count per run; and by how many experts a task's gate uses in effect, dense and sparse tasks apart.
"""

import argparse
import collections
import math
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import matplotlib as mpl

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))
mpl.use("agg")

from matplotlib import pyplot as plt  # noqa: E402

from benchmarks.claims import claim  # noqa: E402
from benchmarks.papers import planted_log  # noqa: E402
from benchmarks.papers.runs import RESULTS, Job, of_size, parameters, spread, train_all, tuned, write  # noqa: E402
from benchmarks.peers_data import SAMPLE  # noqa: E402
from home_dist.config import load_config  # noqa: E402
from home_dist.insight.run_record import RunRecord  # noqa: E402
from home_dist.schema import load_schema, save_schema  # noqa: E402

PLANTED, KUAIRAND = ROOT / "benchmarks" / "papers" / "planted.toml", ROOT / "configs" / "kuairand_pure.toml"
PARTS = {
    "normalisation": "model.expert_norm",
    "mask": "model.hierarchy_mask",
    "feature gate": "model.feature_gate",
    "self gate": "model.self_gate",
}
HOME = ["model.kind=home", "model.feature_gate_rank=4"]
MODELS: dict[str, list[str]] = {
    "MMoE": ["model.kind=mmoe"],
    "ML-MMoE": ["model.kind=ml_mmoe"],
    "CGC": ["model.kind=cgc"],
    "PLE": ["model.kind=ple"],
    "AdaTT": ["model.kind=adatt"],
    "HoME": HOME,
}
OF_PARTS: dict[str, list[str]] = {
    **{f"HoME without {part}": [*HOME, f"{key}=false"] for part, key in PARTS.items()},
    "HoME, none": [*HOME, *(f"{key}=false" for key in PARTS.values())],
    **{f"HoME, only {part}": [*HOME, *(f"{key}={str(p == part).lower()}" for p, key in PARTS.items())] for part in PARTS},
    "PLE with normalisation": ["model.kind=ple", "model.expert_norm=true"],
    "PLE with feature gate": ["model.kind=ple", "model.feature_gate=true", "model.feature_gate_rank=4"],
    "PLE with self gate": ["model.kind=ple", "model.self_gate=true"],
}
PLANTED_RATES, KUAIRAND_RATES = (3e-3, 1e-2, 3e-2), (1e-3, 3e-3)
GROUPED = ("right", "wrong", "random")
DENSE = 0.05
"""Share of positives from which a task counts as dense."""
FAILURES = ("collapse", "degradation", "underfitting")


def kept(run: Path) -> dict[str, Any]:
    record = RunRecord.open(run)
    rates = {t.name: t.base_rate for t in record.schema.task}
    effective: dict[str, float] = {}
    if record.names is not None and record.records:
        last, parts = record.records[-1], record.names.parts
        n = max((i for i, part in enumerate(parts) if any(t is not None for t in part.gate_tasks)), default=None)
        if n is not None:
            values = last.figures[f"{n}.effective"]
            of_gates = zip(parts[n].gate_tasks, values, strict=True)
            effective = {record.tasks[task]: float(value) for task, value in of_gates if task is not None}
    return {
        "auc": {t: record.metric("test", t, "auc") for t in record.tasks},
        "gauc": {t: record.metric("test", t, "gauc") for t in record.tasks},
        "validation": record.mean("validation", "auc"),
        "findings": dict(collections.Counter(f.sign.rule for f in record.findings())),
        "effective": effective,
        "rates": rates,
    }


def mean(run: Mapping[str, Any], measure: str) -> float:
    there = [v for v in run[measure].values() if not math.isnan(v)]
    return statistics.mean(there)


def over_seeds(runs: Sequence[Mapping[str, Any]], measure: str) -> list[float]:
    return [mean(run, measure) for run in runs]


def row(name: str, runs: Sequence[Mapping[str, Any]], reference: Sequence[Mapping[str, Any]], more: str) -> str:
    auc, gauc = over_seeds(runs, "auc"), over_seeds(runs, "gauc")
    against = statistics.mean(auc) - statistics.mean(over_seeds(reference, "auc"))
    counts = [statistics.mean(run["findings"].get(rule, 0) for run in runs) for rule in FAILURES]
    used = []
    for dense in (True, False):
        found = [v for run in runs for t, v in run["effective"].items() if (_rate(run, t) >= DENSE) == dense]
        used.append(f"{statistics.mean(found):.1f}" if found else "-")
    found = " / ".join(f"{c:.1f}" for c in counts)
    return f"| {name} | {more} | {spread(auc)} | {against:+.4f} | {spread(gauc)} | {found} | {' / '.join(used)} |"


def _rate(run: Mapping[str, Any], task: str) -> float:
    known = run["rates"].get(task)
    return planted_log.rate_of(task) if known is None else known


HEAD = [
    f"| model | parameters | AUC | over HoME's | GAUC | {' / '.join(FAILURES)} | experts in effect: dense / sparse |",
    "|---|---|---|---|---|---|---|",
]


def planted(work: Path, samples: int, seeds: int, models: Mapping[str, list[str]]) -> dict[str, Any]:
    data = {}
    for world in planted_log.WORLDS:
        for how in GROUPED if world == planted_log.WORLDS[0] else ("right",):
            data[world, how] = work / f"{world}, {how}"
            if not data[world, how].is_dir():
                planted_log.write_log(data[world, how], world, samples, how)
    first = data[planted_log.WORLDS[0], "right"]
    widths, counts = _sized(PLANTED, models, "MMoE", [f"data.path={first}"])

    def job(name: str, world: str, how: str, rate: float, seed: int) -> Job:
        path = data[world, how]
        chosen = (*models[name], widths[name], f"data.path={path}", f"train.lr={rate}", f"train.seed={seed}")
        return Job(f"{name}, {world}, {how}, {rate:g}, seed {seed}", PLANTED, chosen)

    first_world = planted_log.WORLDS[0]
    trials = {name: {rate: job(name, first_world, "right", rate, 0) for rate in PLANTED_RATES} for name in models}
    rates, tried = tuned(trials, work / "runs", kept, itemgetter("validation"))
    jobs = {
        (name, world, how, seed): job(name, world, how, rates[name], seed)
        for (world, how) in data
        for name in models
        if how == "right" or name == "HoME"
        for seed in range(1, seeds + 1)
    }
    found = train_all(list(jobs.values()), work / "runs", kept)
    runs: dict[str, Any] = {}
    for (name, world, how, _), done in jobs.items():
        runs.setdefault(world, {}).setdefault(_label(name, how), []).append(found[done.name])
    chosen_by = {"widths": widths, "rates": rates, "trials": tried}
    best = {world: planted_log.best_auc(world, samples) for world in runs}
    return {"samples": samples, "seeds": seeds, "parameters": counts, "best": best, **chosen_by, "runs": runs}


def kuairand(work: Path, seeds: int, models: Mapping[str, list[str]], most: int | None) -> dict[str, Any]:
    end = [] if most is None else [f"train.max_steps={most}"]
    schema = load_schema(SAMPLE / "schema.toml")
    schema = schema.only(t.name for t in schema.task if t.kind == "binary")
    schemas = {how: work / f"schema, {how} groups.toml" for how in GROUPED}
    work.mkdir(parents=True, exist_ok=True)
    for how, path in schemas.items():
        groups = planted_log.grouped(how, {t.name: t.group for t in schema.task})
        tasks = tuple(t.model_copy(update={"group": groups[t.name]}) for t in schema.task)
        save_schema(schema.model_copy(update={"task": tasks}), path)
    common = [f"data.path={SAMPLE}", "log.tensorboard=false", *end]
    widths, counts = _sized(KUAIRAND, models, "HoME", common)

    def job(name: str, how: str, rate: float, seed: int) -> Job:
        own = (f"data.schema={schemas[how]}", f"train.lr={rate}", f"train.seed={seed}")
        chosen = (*models[name], widths[name], *common, *own)
        return Job(f"{name}, {how}, {rate:g}, seed {seed}", KUAIRAND, chosen)

    trials = {name: {rate: job(name, "right", rate, 0) for rate in KUAIRAND_RATES} for name in models}
    rates, tried = tuned(trials, work / "kuairand", kept, itemgetter("validation"))
    jobs = {
        (name, how, seed): job(name, how, rates[name], seed)
        for seed in range(1, seeds + 1)
        for how in GROUPED
        for name in models
        if how == "right" or name == "HoME"
    }
    found = train_all(list(jobs.values()), work / "kuairand", kept)
    runs: dict[str, Any] = {}
    for (name, how, _), done in jobs.items():
        runs.setdefault(_label(name, how), []).append(found[done.name])
    return {"seeds": seeds, "parameters": counts, "widths": widths, "rates": rates, "trials": tried, "runs": runs}


def _sized(
    config: Path, models: Mapping[str, list[str]], reference: str, common: list[str]
) -> tuple[dict[str, str], dict[str, int]]:
    """By model, the hidden width with which it is as large as `reference`, as a setting, and its parameters then."""
    size = parameters(load_config(config, [*MODELS[reference], *common]))
    widths = {n: of_size(config, [*of, *common], "model.expert_hidden=[{}]", size) for n, of in models.items()}
    return widths, {n: parameters(load_config(config, [*of, widths[n], *common])) for n, of in models.items()}


def _label(name: str, how: str) -> str:
    return name if how == "right" else f"{name}, {how} groups"


def planted_text(result: Mapping[str, Any]) -> str:
    parts = []
    for world, runs in result["runs"].items():
        size, best = f"{result['samples']:,} samples, {result['seeds']} seeds", result["best"][world]
        lines = [f'World "{world}", {size}; the AUC of what was planted itself is {best:.4f}:', "", *HEAD]
        for name, of_seeds in runs.items():
            lines.append(row(name, of_seeds, runs["HoME"], _parameters(result, name)))
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, trials_text(result)])


def trials_text(result: Mapping[str, Any]) -> str:
    rates = list(next(iter(result["trials"].values())))
    lines = ["By learning rate, one seed: test AUC, and in brackets how many findings there are of the three failures.", ""]
    lines += [f"| model | {' | '.join(f'{rate:g}' for rate in rates)} |", "|---|" + "---|" * len(rates)]
    for name, of in result["trials"].items():
        cells = [f"{mean(run, 'auc'):.4f} ({sum(run['findings'].get(rule, 0) for rule in FAILURES)})" for run in of.values()]
        cells = [f"**{c}**" if rate == result["rates"][name] else c for rate, c in zip(of, cells, strict=True)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def kuairand_text(result: Mapping[str, Any]) -> str:
    lines = [f"KuaiRand-Pure sample, {result['seeds']} seeds:", "", *HEAD]
    runs = result["runs"]
    lines += [row(name, of_seeds, runs["HoME"], _parameters(result, name)) for name, of_seeds in runs.items()]
    return "\n".join([*lines, "", trials_text(result)])


def _parameters(result: Mapping[str, Any], label: str) -> str:
    return f"{result['parameters'][label.split(', wrong')[0].split(', random')[0]]:,}"


def picture(worlds: Mapping[str, Mapping[str, Any]], measure: str, path: Path) -> None:
    """Each model's seeds and their mean, HoME's as a line."""
    figure, axes = plt.subplots(1, len(worlds), figsize=(2.2 + 3.4 * len(worlds), 5.5), layout="constrained", squeeze=False)
    names = list(dict.fromkeys(name for runs in worlds.values() for name in runs))
    for part, (world, runs) in zip(axes[0], worlds.items(), strict=True):
        for y, name in enumerate(names):
            if name in runs:
                values = over_seeds(runs[name], measure)
                part.plot(values, [y] * len(values), "o", color="tab:gray", alpha=0.4)
                part.plot(statistics.mean(values), y, "D", color="tab:green" if name.startswith("HoME") else "tab:blue")
        part.axvline(statistics.mean(over_seeds(runs["HoME"], measure)), color="tab:green", linewidth=0.8)
        part.set_yticks(range(len(names)), names if part is axes[0][0] else [""] * len(names))
        part.invert_yaxis()
        part.set_title(world)
        part.set_xlabel(f"test {measure.upper()}, mean of tasks")
        part.grid(alpha=0.2)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=["planted", "kuairand"], nargs="?", default="planted")
    parser.add_argument("--quick", action="store_true", help="two models, one seed, few samples; writes nothing")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=300_000, help="of a generated log")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "papers" / "home", help="what is there is not done again")
    options = parser.parse_args()
    models = {n: s for n, s in (MODELS | OF_PARTS).items() if not options.quick or n in ("PLE", "HoME")}
    if options.data == "kuairand":
        models = {n: s for n, s in models.items() if n in MODELS or "without" in n}
    with tempfile.TemporaryDirectory() as scratch:
        work, seeds = (Path(scratch), 1) if options.quick else (options.work, options.seeds)
        if options.data == "planted":
            result = planted(work, 6_000 if options.quick else options.samples, seeds, models)
            text, measure, worlds = planted_text(result), "auc", result["runs"]
        else:
            result = kuairand(work, seeds, models, 20 if options.quick else None)
            text, measure, worlds = kuairand_text(result), "gauc", {"KuaiRand": result["runs"]}
    print(text)
    if not options.quick:
        write(f"home_{options.data}", result, text)
        picture(worlds, measure, RESULTS / f"home_{options.data}.png")
    for world, runs in worlds.items():
        own = statistics.mean(over_seeds(runs["HoME"], measure))
        for name in runs:
            if name != "HoME":
                other = statistics.mean(over_seeds(runs[name], measure))
                print(claim(f"{world}: {measure.upper()} of HoME above that of {name}", own - other, 0, form=".4f"))


if __name__ == "__main__":
    main()
