"""Which tasks belong together (Fifty et al. 2021, TAG): do planted groups come back from a run's gradients?

    python benchmarks/papers/groups.py planted     # generated logs of 5 seeds, with a control; a quarter of an hour on 2 cores
    python benchmarks/papers/groups.py kuairand    # the KuaiRand-Pure sample, on 2 ranks; 8 minutes
    python benchmarks/papers/groups.py planted --quick     # one seed, few samples, under 50 s; writes nothing

planted: worlds of planted_log.py, a log and a run of its own for each seed, all declared with wrong groups, half of each true
one: MMoE reads none, and HoME, in the first world, is trained with the wrong ones. The run looks at every second step, at all
its 256 samples. Told: the adjusted Rand index of the clusters that `home-dist groups` makes and the planted groups; how many
tasks it calls clear; and by how many standard errors affinity within clusters of one half of the steps exceeds that between
them on the other half. World "unrelated" is the control: no two tasks have anything in common there, and from 4 standard errors
on the command would propose groups.

kuairand: configs/kuairand_pure.toml looking at every fourth step; what the command would change; and the same configuration
with the proposed groups. One seed.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from sklearn.metrics import adjusted_rand_score  # noqa: E402

from benchmarks.claims import claim  # noqa: E402
from benchmarks.papers import planted_log  # noqa: E402
from benchmarks.papers.runs import Job, train_all, write  # noqa: E402
from benchmarks.sample_run import SINGLE, output_of, set_options, torchrun  # noqa: E402
from home_dist.insight.differences import Differences  # noqa: E402
from home_dist.insight.grouping import GROUND, STABLE, propose  # noqa: E402
from home_dist.insight.groups_report import to_json, write_groups  # noqa: E402
from home_dist.insight.run_figures import RunFigures  # noqa: E402
from home_dist.insight.settings import Setting, SplitOfSettings  # noqa: E402

PLANTED, KUAIRAND = ROOT / "benchmarks" / "papers" / "planted.toml", ROOT / "configs" / "kuairand_pure.toml"
LOOKING = ["insight.every_steps=2", "insight.gradient_samples=256"]
ONE_EPOCH = ["train.epochs=1", "data.validation=", "data.test=", "metrics.of_training=false"]
MODELS = {"MMoE": ["model.kind=mmoe"], "HoME": ["model.kind=home", "model.feature_gate_rank=4"]}
WORLDS = planted_log.WORLDS


def kept(run: Path) -> dict[str, Any]:
    """What groups.json tells of a run."""
    told = to_json(propose([RunFigures.open(run)]))
    return {key: told[key] for key in ("tasks", "held_out", "affinity", "standard_error")}


def rand(run: Mapping[str, Any], clear: bool = False) -> float:
    """Adjusted Rand index of the clusters and the planted groups, of all tasks or of those that are clear; NaN without any."""
    tasks = [t for t in run["tasks"] if not clear or is_clear(run, t)]
    found = [run["tasks"][t]["cluster"] for t in tasks]
    return float(adjusted_rand_score([planted_log.TASKS[t] for t in tasks], found)) if tasks else float("nan")


def is_clear(run: Mapping[str, Any], task: str) -> bool:
    """As Grouping.clear, of one run."""
    row = run["tasks"][task]
    alone = sum(other["cluster"] == row["cluster"] for other in run["tasks"].values()) == 1
    return run["held_out"] >= GROUND and row["stable_over_steps"] >= STABLE and not alone


def planted(work: Path, samples: int, seeds: int, models: Sequence[str], worlds: Sequence[str]) -> dict[str, Any]:
    jobs: dict[tuple[str, str, int], Job] = {}
    for world in worlds:
        for seed in range(seeds):
            data = work / f"{world}, seed {seed}"
            if not data.is_dir():
                planted_log.write_log(data, world, samples, "wrong", seed=seed)
            for model in models if world == WORLDS[0] else models[:1]:
                chosen = (*MODELS[model], *LOOKING, *ONE_EPOCH, f"data.path={data}", f"train.seed={seed}")
                jobs[model, world, seed] = Job(f"{model}, {world}, seed {seed}", PLANTED, chosen)
    found = train_all(list(jobs.values()), work / "runs", kept)
    runs: dict[str, Any] = {}
    for (model, world, _), job in jobs.items():
        runs.setdefault(world, {}).setdefault(model, []).append(found[job.name])
    return {"samples": samples, "seeds": seeds, "runs": runs}


def planted_table(result: Mapping[str, Any]) -> str:
    lines = [
        f"{result['samples']:,} samples, {result['seeds']} seeds of log and run. Adjusted Rand index of all 8 tasks, and of "
        "those that the command calls clear:",
        "",
        "| world | model | adjusted Rand index: mean | by seed | of clear tasks | clear | held out, standard errors |",
        "|---|---|---|---|---|---|---|",
    ]
    for world, models in result["runs"].items():
        for model, runs in models.items():
            indices = [rand(run) for run in runs]
            if world == WORLDS[2]:
                index = ["-", "-", "-"]
            else:
                of_clear = [rand(run, clear=True) for run in runs if any(is_clear(run, t) for t in run["tasks"])]
                by_seed = ", ".join(f"{index:.2f}" for index in indices)
                index = [f"{statistics.mean(indices):.3f}", by_seed, f"{statistics.mean(of_clear):.3f}" if of_clear else "-"]
            clear = statistics.mean(sum(is_clear(run, t) for t in run["tasks"]) for run in runs)
            margins = ", ".join(f"{r['held_out']:.1f}" for r in runs)
            lines.append(f"| {world} | {model} | {' | '.join(index)} | {clear:.1f} of 8 | {margins} |")
    return "\n".join(lines)


def kuairand(work: Path, most: int | None) -> dict[str, Any]:
    work.mkdir(parents=True, exist_ok=True)
    end = [] if most is None else [f"train.max_steps={most}"]
    several = torchrun(2) if len(os.sched_getaffinity(0)) > 1 else SINGLE
    looking = ["insight.every_steps=4", "insight.gradient_samples=256", "log.tensorboard=false", *end]
    given, proposed = work / "given", work / "given-groups"
    if not (given / "evaluation.json").is_file():
        output_of([*several, "train", KUAIRAND, *set_options([f"run.dir={given}", *looking])], timeout=3600)
    found = propose([RunFigures.open(given)])
    target = write_groups(found, given)
    if target is not None and not (proposed / "evaluation.json").is_file():
        output_of([*several, "train", target], timeout=3600)
    runs = {"given": given} | ({"proposed": proposed} if target is not None else {})
    measures = {}
    for name, folder in runs.items():
        figures = RunFigures.open(folder)
        measures[name] = {m: {t: figures.metric("test", t, m) for t in figures.tasks} for m in ("auc", "gauc")}
    told = {"seed": 0, "changes": found.changes, "measures": measures, "intervals": intervals(runs)}
    return {**told, **to_json(found), "runs": ["configs/kuairand_pure.toml"]}


def intervals(runs: Mapping[str, Path]) -> dict[str, list[float]]:
    """By measure, the mean over tasks with the proposed groups less that with the given ones, and its 95 % interval."""
    if "proposed" not in runs:
        return {}
    settings = [Setting(name, {0: RunFigures.open(folder)}) for name, folder in runs.items()]
    between = Differences(SplitOfSettings("test", settings)).between(settings[1], settings[0])
    return {m: [i.estimate, i.low, i.high] for m, i in between.intervals.items() if m in ("auc", "gauc")}


def kuairand_table(result: Mapping[str, Any]) -> str:
    lines = ["| task | group given | proposed | stable over steps | steps with a positive |", "|---|---|---|---|---|"]
    for task, row in result["tasks"].items():
        told = row["proposed"] + ("" if row["clear"] else " (not clear)")
        stable, seen = row["stable_over_steps"], row["steps_with_a_positive"]
        lines.append(f"| {task} | {row['group']} | {told} | {stable:.2f} | {seen:.0%} |")
    lines += ["", "| test, one seed | given: AUC | proposed: AUC | given: GAUC | proposed: GAUC |", "|---|---|---|---|---|"]
    measures = result["measures"]
    if "proposed" not in measures:
        return "\n".join([*lines[:-2], "Nothing to change."])
    columns = [(name, m) for m in ("auc", "gauc") for name in ("given", "proposed")]
    for task in result["tasks"]:
        lines.append(f"| {task} | {' | '.join(f'{measures[n][m][task]:.4f}' for n, m in columns)} |")
    means = [statistics.mean(measures[n][m].values()) for n, m in columns]
    lines.append(f"| mean | {' | '.join(f'{x:.4f}' for x in means)} |")
    lines.append("")
    of = (f"{m.upper()} {mean:+.4f} ({low:+.4f} to {high:+.4f})" for m, (mean, low, high) in result["intervals"].items())
    return "\n".join([*lines, f"Proposed less given, mean over tasks, 95 % interval with users drawn: {', '.join(of)}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=("planted", "kuairand"))
    parser.add_argument("--quick", action="store_true", help="one seed, few samples or steps; writes nothing")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=300_000)
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs" / "papers" / "groups", help="what is there is not done again"
    )
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp()) if options.quick else None
    work = scratch or options.work
    try:
        if options.study == "planted":
            few = (60_000, 1, ["MMoE"], WORLDS[1:])
            chosen = few if options.quick else (options.samples, options.seeds, list(MODELS), WORLDS)
            result = planted(work, *chosen)
            text = planted_table(result)
        else:
            result = kuairand(work / "kuairand", 96 if options.quick else None)
            text = kuairand_table(result)
    finally:
        if scratch is not None:
            shutil.rmtree(scratch)
    print(text)
    if not options.quick:
        write(f"groups_{options.study}", json.loads(json.dumps(result)), text)
    if options.study == "kuairand":
        return
    for world, models in result["runs"].items():
        for model, runs in models.items():
            if world == WORLDS[2]:
                worst = max(run["held_out"] for run in runs)
                print(claim(f"{model}, {world}: standard errors held out, largest", worst, GROUND, at_most=True))
            else:
                mean = statistics.mean(map(rand, runs))
                name = f"{model}, {world}: adjusted Rand index of planted groups, mean over {len(runs)} seeds"
                print(claim(name, mean, 0.9, form=".3f"))


if __name__ == "__main__":
    main()
