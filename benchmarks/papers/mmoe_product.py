"""MMoE's synthetic study through `home-dist train`: does the trainer give the losses of the batched script?

    python benchmarks/papers/mmoe_product.py            # 12 seeds of 3 models: some fifteen minutes of one core
    python benchmarks/papers/mmoe_product.py --quick    # MMoE alone, one seed, 300 steps, under 50 s; writes nothing

Three settings: MMoE, OMoE and Shared-Bottom at correlation 0.5, where the models differ most. They are three code paths: a gate
per task, one gate, none. Samples are those of mmoe_synthetic.py, written as Parquet, one data set per seed, which the
three models share; each of 3,000 steps of 64 reads samples that were never seen before. Tasks are of kind regression, with the
squared loss and no facts about the label, so that the loss is the mean squared error. The trainer's AdamW without decay is
Adam; learning rates are those that mmoe_synthetic.py chose. Final loss: mean over both tasks and the last 100 steps.

One difference cannot be set away: home_dist starts layers before a ReLU sqrt(6) times as wide as torch.nn.Linear, and biases at
0. The script is therefore run again with that start ("kaiming").

Two comparisons. Replay: the script starts from the weights of the first seed's run, reads the same batches in the same order
and minimises the sum over tasks, as the run does; every 100 steps both should have the same loss, until rounding has grown.
Spread: mean final loss over seeds, less that of the script's runs; z is this difference over its standard error.
"""

import argparse
import json
import math
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import torch  # noqa: E402

from benchmarks.claims import claim  # noqa: E402
from benchmarks.papers import mmoe_synthetic as script  # noqa: E402
from benchmarks.papers.runs import RESULTS, Job, train_all, write  # noqa: E402
from benchmarks.start import machine  # noqa: E402
from home_dist.config import RunConfig, load_config  # noqa: E402
from home_dist.data.inputs import open_inputs  # noqa: E402
from home_dist.distributed.ranks import Ranks, form_ranks  # noqa: E402
from home_dist.insight.run_files import CURVES  # noqa: E402
from home_dist.insight.store import InsightStore  # noqa: E402
from home_dist.network import Head  # noqa: E402
from home_dist.schema import Schema, load_schema, save_schema  # noqa: E402

CONFIG = ROOT / "benchmarks" / "papers" / "mmoe_product.toml"
CORRELATION = 0.5
MODELS = {
    "Shared-Bottom": ["model.kind=shared_bottom", f"model.expert_dim={script.BOTTOM}"],
    "OMoE": ["model.kind=omoe", f"model.expert_dim={script.EXPERT['OMoE']}"],
    "MMoE": ["model.kind=mmoe", f"model.expert_dim={script.EXPERT['MMoE']}"],
}
TASKS = ("first", "second")
ALIKE = 100
"""Steps in which a replay must agree: rounding grows with steps."""


def write_data(folder: Path, seed: int, steps: int) -> None:
    """The samples of run `seed`."""
    log = script.Log(1, CORRELATION, seed, "generator")
    batches = [log.batch() for _ in range(steps)]
    x, y = (torch.cat([batch[i][0] for batch in batches]).numpy() for i in (0, 1))
    columns = {"x": pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), script.WIDTH)}
    columns |= {task: pa.array(y[:, k]) for k, task in enumerate(TASKS)}
    (folder / "train").mkdir(parents=True)
    file = folder / "train" / "part-0.parquet"
    pq.write_table(pa.table(columns), file, row_group_size=16384, use_dictionary=False, compression="none")
    tree = {
        "feature": [{"kind": "dense", "name": "x", "column": "x", "width": script.WIDTH}],
        "task": [{"name": task, "group": "all", "column": task, "kind": "regression"} for task in TASKS],
    }
    save_schema(Schema.model_validate(tree), folder / "schema.toml")


def settings_of(model: str, data: Path, rate: float, seed: int) -> list[str]:
    return [*MODELS[model], f"data.path={data}", f"train.lr={rate}", f"train.seed={seed}"]


def losses(run: Path) -> list[float]:
    """Of each 100 steps, the mean over both tasks."""
    return [sum(line["task_losses"].values()) / len(TASKS) for line in InsightStore(run / "insight").lines(CURVES)]


def replay(model: str, config: RunConfig, rate: float, ranks: Ranks) -> list[float]:
    """The script's losses, as `losses` gives them, from the start and with the batches of the run of `config`."""
    inputs = open_inputs(config, load_schema(config.schema_path()), ("train",))
    torch.manual_seed(config.train.seed)
    head = Head(inputs.schema, inputs.layout, config)  # no tables: a run draws nothing else
    found = start_of(head, model)
    batches = ((b.dense.unsqueeze(0), b.labels.unsqueeze(0)) for b in inputs.training_reader(ranks).epoch(0))
    each = script.fit(model, found, rate, batches, factor=len(TASKS))[:, 0]  # a run minimises the sum over tasks
    return each.reshape(-1, script.LAST).mean(1).tolist()


def start_of(head: Head, model: str) -> dict[str, torch.Tensor]:
    """A head's weights as the script's parameters of one run."""
    bank = head.model.trunk if model == "Shared-Bottom" else head.model.bank
    towers = head.towers
    found = {
        "bottom": bank.weights[0].flatten(0, 1).t().unsqueeze(0),
        "bottom.bias": bank.biases[0].flatten().view(1, 1, -1),
        "tower": towers.weights[0],
        "tower.bias": towers.biases[0].unsqueeze(1),
        "head": towers.weights[1],
        "head.bias": towers.biases[1].unsqueeze(1),
    }
    if model != "Shared-Bottom":
        found["gates"] = head.model.gates.weight.flatten(0, 1).t().unsqueeze(0)
    return {name: p.detach().clone().contiguous().requires_grad_() for name, p in found.items()}


Losses = list[float]


def trained(work: Path, rates: dict[str, float], seeds: int, steps: int) -> tuple[dict[str, list[Losses]], dict[str, Losses]]:
    """By model of `rates`: the losses of each seed's run, and those of the first one's replay."""
    ranks = form_ranks(load_config(CONFIG, ["distributed.threads=1"]).distributed)
    runs: dict[str, list[Losses]] = {model: [] for model in rates}
    replays = {}
    for seed in range(seeds):
        data = work / f"data-{seed}"
        jobs = {m: Job(f"{m}-{seed}", CONFIG, tuple(settings_of(m, data, rates[m], seed))) for m in rates}
        if seed == 0 or not all((work / f"{job.name}.json").is_file() for job in jobs.values()):
            shutil.rmtree(data, ignore_errors=True)
            write_data(data, seed, steps)
        found = train_all(list(jobs.values()), work, losses, at_once=1)
        for model, job in jobs.items():
            runs[model].append(found[job.name])
            if seed == 0:
                replays[model] = replay(model, load_config(CONFIG, job.settings), rates[model], ranks)
        shutil.rmtree(data, ignore_errors=True)
    return runs, replays


def compared(ours: list[float], other: list[float]) -> dict[str, float]:
    """The mean of `ours` less that of `other`, half of its 95 % interval, and z."""
    gap = statistics.mean(ours) - statistics.mean(other)
    error = math.sqrt(sum(statistics.variance(v) / len(v) for v in (ours, other)))
    return {"gap": gap, "half": 1.96 * error, "z": gap / error}


def table(result: dict[str, Any]) -> str:
    models = result["models"]
    lines = [
        f"{result['seeds']} seeds of {result['steps']:,} steps, correlation {CORRELATION:g}, on {result['machine']}. "
        f"The script: {result['script_runs']['linear']} runs with its own start, {result['script_runs']['kaiming']} with "
        "home_dist's. Difference: home_dist less the script, with 95 % interval.",
        "",
        "| model | home_dist: final loss ± sd | script, same start | difference | z | script, its own start | difference | z |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model, one in models.items():
        row = [f"{statistics.mean(one['final']):.3f} ± {statistics.stdev(one['final']):.3f}"]
        for start in ("kaiming", "linear"):
            other, c = one["script"][start], one["against"][start]
            row += [f"{other['mean']:.3f} ± {other['sd']:.3f}", f"{c['gap']:+.3f} ± {c['half']:.3f}", f"{c['z']:+.1f}"]
        lines.append(f"| {model} | " + " | ".join(row) + " |")
    lines += ["", "Replay of the first seed: losses of 100 steps, home_dist and script.", ""]
    steps = [100 * n for n in (1, 2, 5, 10, 20, 30) if 100 * n <= result["steps"]]
    lines += ["| model | " + " | ".join(f"to step {s:,}" for s in steps) + " |", "|---" * (len(steps) + 1) + "|"]
    for model, one in models.items():
        pairs = [(one["curves"][0][s // 100 - 1], one["replay"][s // 100 - 1]) for s in steps]
        lines.append(f"| {model} | " + " | ".join(f"{a:.5f}, {b:.5f}" for a, b in pairs) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="MMoE alone, one seed, 300 steps, under 50 s; writes nothing")
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--script-runs", type=int, default=50, help="of the script with home_dist's start")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs" / "papers" / "mmoe_product", help="what is there is not done again"
    )
    options = parser.parse_args()
    if options.seeds < 2 or options.script_runs < 2:
        parser.error("--seeds and --script-runs must be at least 2")
    stored = json.loads((RESULTS / "mmoe_synthetic.json").read_text())
    steps = 300 if options.quick else stored["steps"]
    published = stored["cases"][f"{CORRELATION:g}"]
    rates = {model: published[model]["learning_rate"] for model in MODELS if not options.quick or model == "MMoE"}
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch) if options.quick else options.work
        runs, replays = trained(work, rates, 1 if options.quick else options.seeds, steps)
        result: dict[str, Any] = {"machine": machine(), "seeds": options.seeds, "steps": steps, "models": {}}
        if not options.quick:
            result["script_runs"] = {"linear": stored["runs"], "kaiming": options.script_runs}
        for model in rates:
            one: dict[str, Any] = {"learning_rate": rates[model], "final": [c[-1] for c in runs[model]]}
            one |= {"curves": runs[model], "replay": replays[model]}
            if not options.quick:
                finals = {
                    "linear": published[model]["final"],
                    "kaiming": _kaiming(work, model, rates, options.script_runs, steps),
                }
                one["script"] = {s: {"mean": statistics.mean(f), "sd": statistics.stdev(f)} for s, f in finals.items()}
                one["against"] = {start: compared(one["final"], final) for start, final in finals.items()}
            result["models"][model] = one
    if not options.quick:
        text = table(result)
        print(text)
        write("mmoe_product", result, text)
    for model, one in result["models"].items():
        curve, again = one["curves"][0], one["replay"]
        apart = max(abs(a - b) / b for a, b in zip(curve[: ALIKE // 100], again[: ALIKE // 100], strict=True))
        name = f"mmoe_product_replay {model}: relative difference of the first {ALIKE} steps' loss"
        print(claim(name, apart, 1e-5, at_most=True, form=".1e", goal_form=".0e"))
        for start, c in one.get("against", {}).items():
            name = f"mmoe_product_gap_{CORRELATION:g} {model}, script's start {start}: {c['gap']:+.3f}, |z|"
            print(claim(name, abs(c["z"]), 2, at_most=True))


def _kaiming(work: Path, model: str, rates: dict[str, float], runs: int, steps: int) -> list[float]:
    """Final losses of the script's runs with home_dist's start."""
    kept = work / f"script-{model}-{runs}.json"
    if not kept.is_file():
        found = script.train(model, CORRELATION, rates[model], runs, steps, 0, "generator", start="kaiming")
        kept.write_text(json.dumps(np.asarray(found)[-script.LAST :].mean(0).tolist()))
    return json.loads(kept.read_text())


if __name__ == "__main__":
    main()
