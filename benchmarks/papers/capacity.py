"""Number of experts and depth: what they bring and cost, for each model, and where experts collapse.

    python benchmarks/papers/capacity.py            # half an hour on 2 cores
    python benchmarks/papers/capacity.py --quick    # two models, one seed, few samples, under 50 s; writes nothing

The first world of planted_log.py, experts of [32, 16], epochs of planted.toml, and for each model the learning rate that
`home.py planted` chose for it. Number: MMoE and ML-MMoE with 2 to 32 experts; with m = 1, 2, 4, 8 CGC and PLE (m of each task,
2 m shared), AdaTT (m of each task, m shared) and HoME (m shared, m of each group, m of each task). Depth: 1 to 4 layers of
ML-MMoE (one is MMoE), PLE (one is CGC) and AdaTT. HoME has two levels by definition and is told beside them. Told: AUC on the
test split, mean over tasks; parameters of experts, gates and towers (a sample's training takes 6 FLOPs each); by how many
experts a task's gate uses in effect; what the findings count per run.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))
mpl.use("agg")

from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter  # noqa: E402

from benchmarks.claims import claim  # noqa: E402
from benchmarks.papers import planted_log  # noqa: E402
from benchmarks.papers.home import HOME, PLANTED, kept, over_seeds  # noqa: E402
from benchmarks.papers.runs import RESULTS, Job, parameters, spread, train_all, write  # noqa: E402
from home_dist.config import load_config  # noqa: E402

COUNTS = (2, 4, 8, 16, 32)
TIMES = (1, 2, 4, 8)
LAYERS = (1, 2, 3, 4)
NUMBER: dict[str, dict[str, list[str]]] = {
    "MMoE": {f"{n}": ["model.kind=mmoe", f"model.experts={n}"] for n in COUNTS},
    "ML-MMoE": {f"{n}": ["model.kind=ml_mmoe", f"model.experts={n}"] for n in COUNTS},
    "CGC": {f"{m}": ["model.kind=cgc", f"model.task_experts={m}", f"model.shared_experts={2 * m}"] for m in TIMES},
    "PLE": {f"{m}": ["model.kind=ple", f"model.task_experts={m}", f"model.shared_experts={2 * m}"] for m in TIMES},
    "AdaTT": {f"{m}": ["model.kind=adatt", f"model.task_experts={m}", f"model.shared_experts={m}"] for m in TIMES},
    "HoME": {
        f"{m}": [*HOME, f"model.shared_experts={m}", f"model.group_experts={m}", f"model.task_experts={m}"] for m in TIMES
    },
}
DEPTH: dict[str, dict[str, list[str]]] = {
    "ML-MMoE": {f"{n}": ["model.kind=ml_mmoe", f"model.layers={n}"] for n in LAYERS},
    "PLE": {f"{n}": ["model.kind=ple", f"model.layers={n}"] for n in LAYERS},
    "AdaTT": {f"{n}": ["model.kind=adatt", f"model.layers={n}"] for n in LAYERS},
    "HoME": {"2": HOME},
}
STUDIES = {"experts": NUMBER, "layers": DEPTH}
FAILURES = ("collapse", "identical", "degradation", "underfitting")


def table(result: dict[str, Any]) -> str:
    parts = []
    for axis, models in result["runs"].items():
        lines = [
            f"By number of {axis}, {result['seeds']} seeds:",
            "",
            f"| model | {axis} | parameters | AUC | experts in effect | {' | '.join(FAILURES)} |",
        ]
        lines.append("|---|" + "---|" * (4 + len(FAILURES)))
        for model, by in models.items():
            for n, runs in by.items():
                counts = [statistics.mean(run["findings"].get(rule, 0) for run in runs) for rule in FAILURES]
                size = result["parameters"][f"{axis}, {model}, {n}"]
                used = [value for run in runs for value in run["effective"].values()]
                cells = " | ".join([f"{statistics.mean(used):.1f}" if used else "-", *(f"{c:.1f}" for c in counts)])
                lines.append(f"| {model} | {n} | {size:,} | {spread(over_seeds(runs, 'auc'))} | {cells} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def picture(result: dict[str, Any], path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained", sharey=True)
    for part, (axis, models) in zip(axes, result["runs"].items(), strict=True):
        for model, by in models.items():
            sizes = [result["parameters"][f"{axis}, {model}, {n}"] for n in by]
            middle = [statistics.mean(over_seeds(runs, "auc")) for runs in by.values()]
            part.plot(sizes, middle, "o-", label=model, color=f"C{list(NUMBER).index(model)}")
            for size, (n, runs) in zip(sizes, by.items(), strict=True):
                part.annotate(n, (size, statistics.mean(over_seeds(runs, "auc"))), textcoords="offset points", xytext=(3, 4))
        if axis == "experts":
            part.set_xscale("log")
            part.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            part.xaxis.set_minor_locator(NullLocator())
        part.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        part.set_xlabel(f"parameters; beside the points the number of {axis}")
        part.grid(alpha=0.2)
        part.legend()
    axes[0].set_ylabel("test AUC, mean of 8 tasks")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two models, one seed, few samples; writes nothing")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--samples", type=int, default=300_000)
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs" / "papers" / "capacity", help="what is there is not done again"
    )
    options = parser.parse_args()
    seeds, samples = (1, 6_000) if options.quick else (options.seeds, options.samples)
    tuned = RESULTS / "home_planted.json"
    if not tuned.is_file():
        parser.error(f"{tuned} is missing: `home.py planted` chooses the learning rates")
    rates = json.loads(tuned.read_text())["rates"]
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch) if options.quick else options.work
        data = work / "log"
        if not data.is_dir():
            planted_log.write_log(data, planted_log.WORLDS[0], samples)
        jobs, sizes = {}, {}
        for axis, models in STUDIES.items():
            for model, by in models.items():
                for n, settings in by.items():
                    if options.quick and (axis != "experts" or model not in ("MMoE", "HoME") or n != "2"):
                        continue
                    chosen = (*settings, f"data.path={data}", f"train.lr={rates[model]}")
                    sizes[f"{axis}, {model}, {n}"] = parameters(load_config(PLANTED, list(chosen)))
                    for seed in range(seeds):
                        name = f"{axis}, {model}, {n}, {rates[model]:g}, seed {seed}"
                        jobs[axis, model, n, seed] = Job(name, PLANTED, (*chosen, f"train.seed={seed}"))
        found = train_all(list(jobs.values()), work / "runs", kept)
    runs: dict[str, Any] = {}
    for (axis, model, n, _), job in jobs.items():
        runs.setdefault(axis, {}).setdefault(model, {}).setdefault(n, []).append(found[job.name])
    result = {"seeds": seeds, "samples": samples, "parameters": sizes, "rates": rates, "runs": runs}
    text = table(result)
    print(text)
    if not options.quick:
        write("capacity", result, text)
        picture(result, RESULTS / "capacity.png")
    for model, by in runs["experts"].items():
        most = statistics.mean(over_seeds(list(by.values())[-1], "auc"))
        best = max(statistics.mean(over_seeds(of, "auc")) for of in by.values())
        print(claim(f"{model}: AUC with most experts, below its best", best - most, 0.002, at_most=True, form=".4f"))


if __name__ == "__main__":
    main()
