"""SMES (Zhang et al. 2026) against MMoE, PLE and HoME: at equal parameters, and at equal products per sample.

    python benchmarks/papers/sparse.py planted     # generated logs with controls; half an hour on 2 cores
    python benchmarks/papers/sparse.py kuairand    # the KuaiRand-Pure sample; half an hour
    python benchmarks/papers/sparse.py planted --quick     # two models, one seed, few samples, under 50 s; writes nothing

planted: the three worlds of planted_log.py, and of the first one four tasks with many positives beside one with one in 1,000.
All models have as many parameters as MMoE with 8 experts of [32, 16], by their hidden width; "SMES, equal products" has 32
experts, of which a sample's, at most, have as many products as MMoE's. A product is a parameter that a sample is multiplied
with: an upper bound for SMES, whose tasks often choose the same. Routers count, which multiply each sample with a vector per
expert and task: with 64 experts they alone take more than MMoE. Each model takes the best of three learning rates by validation
AUC in the first world.

In the first world also, with experts as wide as those of "SMES, equal products": pools of 8 to 256 experts, of which a sample
uses as many; with and without the load balance; experts that all tasks choose (K_s) against those that each task chooses (K_a),
at equal products.

kuairand: configs/kuairand_pure.toml with each model in the place of HoME, sized as HoME there, the better of two rates.

Told are AUC and GAUC on the test split, means over tasks and then over seeds; how many experts a sample used; how much of the
pool was idle; and what the findings (home_dist/insight/rules.py) count per run.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import matplotlib as mpl

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))
mpl.use("agg")

from matplotlib import pyplot as plt  # noqa: E402

from benchmarks.claims import claim  # noqa: E402
from benchmarks.papers import home, planted_log  # noqa: E402
from benchmarks.papers.home import KUAIRAND, KUAIRAND_RATES, PLANTED, PLANTED_RATES, over_seeds  # noqa: E402
from benchmarks.papers.runs import RESULTS, Job, of_size, parameters, products, spread, train_all, tuned, write  # noqa: E402
from benchmarks.peers_data import SAMPLE  # noqa: E402
from home_dist.config import load_config  # noqa: E402
from home_dist.insight.run_record import RunRecord  # noqa: E402
from home_dist.schema import load_schema  # noqa: E402

DENSE = {name: home.MODELS[name] for name in ("MMoE", "PLE", "HoME")}
FEW = ("a_one_in_2", "a_one_in_10", "b_one_in_3", "b_one_in_20", "b_one_in_1000")
"""Tasks of the first world of which one is sparse."""
SPARSE = FEW[-1]
ONE_SPARSE = "one sparse task"
POOLS = (8, 16, 32, 64, 128, 256)
MANY = 32
SHARED, OWN = 2, 1
BALANCES = (0.0, 0.001, 0.01, 0.1)
IDLE = 0.001
"""Share of the samples up to which an expert that they use counts as idle."""
SMES = "SMES, equal products"
WIDTH = "model.expert_hidden=[{}]"
CHOICES = ((2, 1), (10, 0), (0, 1), (4, 1), (0, 2))
"""(K_s, K_a); (10, 0) and (2, 1) are as many experts of a sample at most."""


def smes(experts: int, shared: int = SHARED, own: int = OWN, balance: float = 0.01) -> list[str]:
    sizes = f"model.experts={experts}", f"model.shared_choices={shared}", f"model.task_choices={own}"
    return ["model.kind=smes", *sizes, f"model.balance={balance}"]


def kept(run: Path) -> dict[str, Any]:
    record = RunRecord.open(run)
    figures = record.records[-1].figures if record.records else {}
    use = figures.get("0.use")
    pool = {} if use is None else {"used": float(use.sum()), "idle": float((use <= IDLE).mean())}
    return home.kept(run) | pool


@dataclass(frozen=True)
class Sizes:
    """Hidden widths with which models are as large as the reference."""

    config: Path
    common: tuple[str, ...]
    size: int

    def parameters(self, settings: list[str]) -> list[str]:
        return [*settings, of_size(self.config, [*settings, *self.common], WIDTH, self.size)]

    def products(self, settings: list[str]) -> list[str]:
        return [*settings, of_size(self.config, [*settings, *self.common], WIDTH, self.size, count=products)]

    def told(self, settings: list[str]) -> dict[str, int]:
        config = load_config(self.config, [*settings, *self.common])
        return {"parameters": parameters(config), "products": products(config)}


def compared(sizes: Sizes, quick: bool) -> dict[str, list[str]]:
    dense = {name: settings for name, settings in DENSE.items() if not quick or name == "HoME"}
    found = {name: sizes.parameters(settings) for name, settings in dense.items()}
    found["SMES, equal parameters"] = sizes.parameters(smes(16))
    if not quick:
        found[SMES] = sizes.products(smes(MANY))
    return found


def variants(sizes: Sizes) -> dict[str, dict[str, list[str]]]:
    """Of SMES, by study."""
    width = sizes.products(smes(MANY))[-1]
    return {
        "pool": {f"{n} experts": [*smes(n), width] for n in POOLS},
        "balance": {f"balance {b:g}": [*smes(MANY, balance=b), width] for b in BALANCES},
        "choices": {f"K_s = {s}, K_a = {a}": sizes.products(smes(MANY, s, a)) for s, a in CHOICES},
    }


def planted(work: Path, samples: int, seeds: int, quick: bool) -> dict[str, Any]:
    first = planted_log.WORLDS[0]
    data = {world: work / world for world in planted_log.WORLDS[: 1 if quick else None]}
    for world, path in data.items():
        if not path.is_dir():
            planted_log.write_log(path, world, samples)
    places = {world: [f"data.path={path}"] for world, path in data.items()}
    places[ONE_SPARSE] = [f"data.path={data[first]}", f"data.tasks={list(FEW)}"]
    common = tuple(places[first])
    sizes = Sizes(PLANTED, common, parameters(load_config(PLANTED, [*DENSE["MMoE"], *common])))
    models = compared(sizes, quick)

    def job(name: str, settings: list[str], world: str, rate: float, seed: int) -> Job:
        chosen = (*settings, *places[world], f"train.lr={rate}", f"train.seed={seed}")
        return Job(f"{name}, {world}, {rate:g}, seed {seed}", PLANTED, chosen)

    grid = PLANTED_RATES[1:2] if quick else PLANTED_RATES
    trials = {name: {rate: job(name, of, first, rate, 0) for rate in grid} for name, of in models.items()}
    rates, tried = tuned(trials, work / "runs", kept, itemgetter("validation"))
    jobs = {
        (world, name): [job(name, of, world, rates[name], seed) for seed in range(1, seeds + 1)]
        for world in places
        for name, of in models.items()
    }
    studies = {} if quick else variants(sizes)
    for study, of_study in studies.items():
        for name, of in of_study.items():
            jobs[study, name] = [job(f"{study}, {name}", of, first, rates[SMES], seed) for seed in range(1, seeds + 1)]
    runs = found(jobs, work / "runs")
    told = {name: sizes.told(of) for group in (models, *studies.values()) for name, of in group.items()}
    best = {world: planted_log.best_auc(world, samples) for world in data}
    return {"samples": samples, "seeds": seeds, "sizes": told, "rates": rates, "trials": tried, "best": best, "runs": runs}


def kuairand(work: Path, seeds: int, quick: bool) -> dict[str, Any]:
    schema = load_schema(SAMPLE / "schema.toml")
    tasks = [t.name for t in schema.task if t.kind == "binary"]
    end = ["train.max_steps=20"] if quick else []
    common = (f"data.path={SAMPLE}", f"data.tasks={tasks}", "log.tensorboard=false", *end)
    sizes = Sizes(KUAIRAND, common, parameters(load_config(KUAIRAND, [*DENSE["HoME"], *common])))
    models = compared(sizes, quick)

    def job(name: str, rate: float, seed: int) -> Job:
        return Job(
            f"{name}, {rate:g}, seed {seed}", KUAIRAND, (*models[name], *common, f"train.lr={rate}", f"train.seed={seed}")
        )

    trials = {name: {rate: job(name, rate, 0) for rate in KUAIRAND_RATES[quick:]} for name in models}
    rates, tried = tuned(trials, work / "kuairand", kept, itemgetter("validation"))
    jobs = {("KuaiRand", name): [job(name, rates[name], seed) for seed in range(1, seeds + 1)] for name in models}
    told = {name: sizes.told(of) for name, of in models.items()}
    return {"seeds": seeds, "sizes": told, "rates": rates, "trials": tried, "runs": found(jobs, work / "kuairand")}


def found(jobs: Mapping[tuple[str, str], Sequence[Job]], folder: Path) -> dict[str, dict[str, list[Any]]]:
    """By group and name, what was kept of each seed."""
    done = train_all([job for of in jobs.values() for job in of], folder, kept)
    runs: dict[str, dict[str, list[Any]]] = {}
    for (group, name), of in jobs.items():
        runs.setdefault(group, {})[name] = [done[job.name] for job in of]
    return runs


def text(result: Mapping[str, Any]) -> str:
    parts = []
    for group, runs in result["runs"].items():
        best = result.get("best", {}).get(group)
        about = "" if best is None else f"; the AUC of what was planted itself is {best:.4f}"
        lines = [f"{_title(group)}, {result['seeds']} seeds{about}:", "", *HEAD]
        reference = next(iter(runs.values())) if "HoME" not in runs else runs["HoME"]
        lines += [_row(name, of, reference, result["sizes"][name]) for name, of in runs.items()]
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, home.trials_text(result)])


def _title(group: str) -> str:
    return group if group in ("KuaiRand",) else f'"{group}"'


_COLUMNS = (
    "model",
    "parameters",
    "products",
    "AUC",
    "over HoME's, or the first's",
    "of the sparse task",
    "GAUC",
    "experts used",
    "of the pool idle",
    "idle / crowded",
)
HEAD = [f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|"]


def _row(name: str, runs: Sequence[Mapping[str, Any]], reference: Sequence[Mapping[str, Any]], size: Mapping[str, int]) -> str:
    auc = over_seeds(runs, "auc")
    over = statistics.mean(auc) - statistics.mean(over_seeds(reference, "auc"))
    of_sparse = spread([run["auc"][SPARSE] for run in runs]) if SPARSE in runs[0]["auc"] else "-"
    pool = ["-", "-", "-"]
    if "used" in runs[0]:
        counts = [statistics.mean(run["findings"].get(rule, 0) for run in runs) for rule in ("idle", "crowded")]
        used, idle = (statistics.mean(run[key] for run in runs) for key in ("used", "idle"))
        pool = [f"{used:.1f}", f"{idle:.0%}", " / ".join(f"{c:.1f}" for c in counts)]
    sizes = f"{size['parameters']:,} | {size['products']:,}"
    gauc = spread(over_seeds(runs, "gauc"))
    return f"| {name} | {sizes} | {spread(auc)} | {over:+.4f} | {of_sparse} | {gauc} | {' | '.join(pool)} |"


def picture(result: Mapping[str, Any], measure: str, path: Path) -> None:
    groups = result["runs"]
    figure, axes = plt.subplots(1, len(groups), figsize=(2.5 + 2.6 * len(groups), 4), layout="constrained", squeeze=False)
    for part, (group, runs) in zip(axes[0], groups.items(), strict=True):
        for y, (name, of) in enumerate(runs.items()):
            values = over_seeds(of, measure)
            part.plot(values, [y] * len(values), "o", color="tab:gray", alpha=0.4)
            color = "tab:orange" if name.startswith("SMES") else "tab:green" if name == "HoME" else "tab:blue"
            part.plot(statistics.mean(values), y, "D", color=color)
        part.set_yticks(range(len(runs)), list(runs), fontsize=8)
        part.invert_yaxis()
        part.set_title(group)
        part.set_xlabel(f"test {measure.upper()}")
        part.grid(alpha=0.2)
    figure.savefig(path, dpi=110)


def claims(result: Mapping[str, Any], measure: str) -> list[str]:
    lines = []
    for group, runs in result["runs"].items():
        dense = [name for name in runs if name in DENSE]
        for name in (n for n in runs if n.startswith("SMES") and dense):
            own = statistics.mean(over_seeds(runs[name], measure))
            best = max(dense, key=lambda n: statistics.mean(over_seeds(runs[n], measure)))
            above = own - statistics.mean(over_seeds(runs[best], measure))
            lines.append(claim(f"{group}: {measure.upper()} of {name} above the best dense one, {best}", above, 0, form=".4f"))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=["planted", "kuairand"], nargs="?", default="planted")
    parser.add_argument("--quick", action="store_true", help="two models, one seed, few samples; writes nothing")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=150_000, help="of a generated log")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs" / "papers" / "sparse", help="what is there is not done again"
    )
    options = parser.parse_args()
    of_planted = options.data == "planted"
    with tempfile.TemporaryDirectory() as scratch:
        work, seeds = (Path(scratch), 1) if options.quick else (options.work, options.seeds)
        if of_planted:
            result = planted(work, 6_000 if options.quick else options.samples, seeds, options.quick)
        else:
            result = kuairand(work, seeds, options.quick)
    shown, measure = text(result), "auc" if of_planted else "gauc"
    print(shown)
    if not options.quick:
        write(f"sparse_{options.data}", result, shown)
        picture(result, measure, RESULTS / f"sparse_{options.data}.png")
    print("\n".join(claims(result, measure)))


if __name__ == "__main__":
    main()
