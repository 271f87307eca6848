"""MMoE on tasks of given correlation, after Ma et al. 2018 (KDD), section 3: does it train better than one bottom for all?

    python benchmarks/papers/mmoe_synthetic.py            # 200 runs of each of 9 cases, some twenty minutes on 2 cores
    python benchmarks/papers/mmoe_synthetic.py --quick    # 20 runs of some steps, under 50 s; writes nothing

Data, anew in every step and run: x ~ N(0, I) of 100 numbers; w1 = u1 and w2 = p u1 + sqrt(1 - p^2) u2 with orthonormal u1,
u2; y_k = w_k.x + sum over i = 1 .. 10 of sin(i w_k.x + i^2) + noise of 0.01. The paper leaves scale, frequencies and phases
open; these are those of google-research's generator. p is the correlation of the tasks' weights: 0.5, 0.9 and 1.

Models: 8 experts of 16 with a gate per task (MMoE), with one gate for both tasks (OMoE, experts of 17), one bottom of 126
(Shared-Bottom); a tower of 8 per task; all with some 14,800 parameters. Adam; each model and correlation takes the learning
rate of four that 20 runs find best. All runs of a case are one batched model, so that 200 take minutes. The loss of a step is
of samples that were never seen before; a run's final loss is the mean of its last 100 steps.

Control: at p = 1 both tasks are one function, and a gate per task cannot help: a difference there would come from the
benchmark. Variation: p = 0.5 again with other waves, sum over i = 1 .. 4 of 2 sin(i w_k.x / 2 + i), in a quarter of the runs.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))
mpl.use("agg")

from matplotlib import pyplot as plt  # noqa: E402

from benchmarks.claims import claim  # noqa: E402

RESULTS = ROOT / "benchmarks" / "papers" / "results"
CORRELATIONS, MODELS = (0.5, 0.9, 1.0), ("Shared-Bottom", "OMoE", "MMoE")
WIDTH, EXPERTS, TOWER, TASKS, BATCH = 100, 8, 8, 2, 64
WAVES = {"generator": (10, 1.0, 1.0, 2), "other": (4, 2.0, 0.5, 1)}
"""Of the sines: how many, their height, and of number i the frequency over i and the power of i that is its phase."""
EXPERT = {"MMoE": 16, "OMoE": 17}
BOTTOM = 126
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
TUNING_RUNS, LAST, EVERY = 20, 100, 25
OTHER = ", other"


class Log:
    """(R, B, .) samples of R runs, each with directions of its own."""

    def __init__(self, runs: int, correlation: float, seed: int, waves: str):
        self.random = torch.Generator().manual_seed(seed)
        self.runs = runs
        basis = torch.linalg.qr(torch.randn(runs, WIDTH, 2, generator=self.random)).Q
        second = correlation * basis[..., 0] + math.sqrt(1 - correlation**2) * basis[..., 1]
        self.weights = torch.stack([basis[..., 0], second], 2)
        """(R, 100, 2)"""
        count, self.height, frequency, power = WAVES[waves]
        i = torch.arange(1, count + 1, dtype=torch.float32)
        self.frequencies, self.phases = frequency * i, i**power

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(self.runs, BATCH, WIDTH, generator=self.random)
        z = torch.bmm(x, self.weights)
        waves = self.height * torch.sin(z.unsqueeze(-1) * self.frequencies + self.phases).sum(-1)
        return x, z + waves + 0.01 * torch.randn(z.shape, generator=self.random)


def parameters(model: str, runs: int, seed: int, start: str = "linear") -> dict[str, torch.Tensor]:
    """Each (R, in, out) or (R, 1, out). start: "linear", uniform as torch.nn.Linear starts; or "kaiming", as the modules of
    home_dist start: layers before a ReLU are sqrt(6) times as wide, biases are 0."""
    random = torch.Generator().manual_seed(seed)

    def linear(name: str, inside: int, outside: int, bias: bool = True, copies: int = 1) -> dict[str, torch.Tensor]:
        wide = start == "kaiming" and name in ("bottom", "tower")
        shapes = {name: (runs * copies, inside, outside)} | ({f"{name}.bias": (runs * copies, 1, outside)} if bias else {})
        made = {
            n: (torch.rand(s, generator=random) * 2 - 1).mul_(math.sqrt((6 if wide else 1) / inside)) for n, s in shapes.items()
        }
        if bias and start == "kaiming":
            made[f"{name}.bias"].zero_()
        return {n: p.requires_grad_() for n, p in made.items()}

    if model == "Shared-Bottom":
        made, out = linear("bottom", WIDTH, BOTTOM), BOTTOM
    else:
        out = EXPERT[model]
        gates = TASKS if model == "MMoE" else 1
        made = linear("bottom", WIDTH, EXPERTS * out) | linear("gates", WIDTH, EXPERTS * gates, bias=False)
    return made | linear("tower", out, TOWER, copies=TASKS) | linear("head", TOWER, 1, copies=TASKS)


def count(model: str) -> int:
    return sum(p.numel() for p in parameters(model, 1, 0).values())


def predict(model: str, p: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """(R, B, 2)"""
    runs = len(x)
    hidden = torch.baddbmm(p["bottom.bias"], x, p["bottom"]).relu()
    if model == "Shared-Bottom":
        seen = hidden.unsqueeze(1).expand(-1, TASKS, -1, -1)
    else:
        experts = hidden.unflatten(-1, (EXPERTS, -1))
        gates = torch.bmm(x, p["gates"]).unflatten(-1, (-1, EXPERTS)).softmax(-1)
        seen = torch.einsum("rbke,rbed->rkbd", gates, experts).expand(-1, TASKS, -1, -1)
    towers = torch.baddbmm(p["tower.bias"], seen.reshape(runs * TASKS, BATCH, -1), p["tower"]).relu()
    return torch.baddbmm(p["head.bias"], towers, p["head"]).view(runs, TASKS, BATCH).transpose(1, 2)


def train(
    model: str,
    correlation: float,
    rate: float,
    runs: int,
    steps: int,
    seed: int,
    waves: str,
    tell: Callable[[int], None] | None = None,
    start: str = "linear",
) -> np.ndarray:
    """(steps, R): the mean squared error of each step's new samples, mean of both tasks. start: see `parameters`."""
    log, p = Log(runs, correlation, seed, waves), parameters(model, runs, seed + 1, start)
    return fit(model, p, rate, (log.batch() for _ in range(steps)), tell)


Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]


def fit(
    model: str,
    p: dict[str, torch.Tensor],
    rate: float,
    batches: Batches,
    tell: Callable[[int], None] | None = None,
    factor: float = 1.0,
) -> np.ndarray:
    """Trains p; returns each step's loss before its update, as `train` does. batches: x (R, B, 100) and y (R, B, 2). factor: of
    the loss that is minimised, which Adam sees only where a gradient is as small as its epsilon."""
    optimizer = torch.optim.Adam(p.values(), lr=rate, fused=True)
    losses = []
    for step, (x, y) in enumerate(batches):
        each = (predict(model, p, x) - y).square().mean((1, 2))
        optimizer.zero_grad()
        (factor * each.sum()).backward()  # runs share no parameter: each gets the gradient of its own loss
        optimizer.step()
        losses.append(each.detach().numpy())
        if tell is not None and step % 100 == 0:
            tell(step)
    return np.stack(losses)


def case(model: str, correlation: float, runs: int, steps: int, waves: str = "generator") -> dict[str, Any]:
    began = time.perf_counter()
    tuned = {
        rate: float(train(model, correlation, rate, min(runs, TUNING_RUNS), steps // 2, 10_000, waves)[-LAST:].mean())
        for rate in RATES
    }
    best = min(tuned, key=lambda rate: tuned[rate])

    def tell(step: int) -> None:
        done = f"step {step:,} of {steps:,}, {time.perf_counter() - began:,.0f} s"
        print(f"\r{model}, correlation {correlation:g}, learning rate {best:g}: {done}", end="", flush=True)

    losses = train(model, correlation, best, runs, steps, 0, waves, tell)
    print()
    return {
        "learning_rate": best,
        "tuning": {f"{rate:g}": loss for rate, loss in tuned.items()},
        "curve": losses[: steps // EVERY * EVERY].reshape(-1, EVERY, runs).mean((1, 2)).round(4).tolist(),
        "final": losses[-LAST:].mean(0).round(4).tolist(),
    }


def difference(one: list[float], other: list[float]) -> tuple[float, float, float]:
    """Mean of `other` less that of `one`, with a 95 % interval: runs resampled 4,000 times."""
    random = np.random.default_rng(0)
    a, b = np.array(one), np.array(other)
    means = [random.choice(b, len(b)).mean() - random.choice(a, len(a)).mean() for _ in range(4000)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(b.mean() - a.mean()), float(low), float(high)


def table(found: dict[str, dict[str, Any]], runs: int, steps: int) -> str:
    lines = [
        f"{runs} runs (with other waves {max(2, runs // 4)}) of {steps:,} steps with {BATCH} new samples each; "
        f"final loss: mean of the last {LAST} steps.",
        "",
    ]
    lines += [
        "| correlation | model | parameters | learning rate | final loss | sd over runs | worst run | above MMoE's, 95 % |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for name, models in found.items():
        correlation = name.replace(OTHER, " (other waves)")
        for model, one in models.items():
            final = one["final"]
            more, low, high = difference(models["MMoE"]["final"], final)
            against = "-" if model == "MMoE" else f"{more:+.3f} ({low:+.3f} to {high:+.3f})"
            lines.append(
                f"| {correlation} | {model} | {count(model):,} | {one['learning_rate']:g} | {statistics.mean(final):.3f} "
                f"| {statistics.stdev(final):.3f} | {max(final):.3f} | {against} |"
            )
    return "\n".join(lines)


def picture(found: dict[str, dict[str, Any]], path: Path) -> None:
    figure, axes = plt.subplots(2, len(found), figsize=(4.2 * len(found), 6.4), layout="constrained", sharey="row")
    for column, (correlation, models) in enumerate(found.items()):
        above, below = axes[0][column], axes[1][column]
        bins = np.histogram_bin_edges(np.concatenate([m["final"] for m in models.values()]), 40)
        for model, one in models.items():
            above.plot(np.arange(1, len(one["curve"]) + 1) * EVERY, one["curve"], label=model)
            below.hist(one["final"], bins, alpha=0.5, label=model)
        above.set_title(f"correlation {correlation.replace(OTHER, ' (other waves)')}")
        above.set_xlabel("step")
        below.set_xlabel("final loss of a run")
        for part in (above, below):
            part.grid(alpha=0.2)
    axes[0][0].set_ylabel("loss, mean over runs")
    axes[1][0].set_ylabel("runs")
    axes[0][0].legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 runs of some steps, under 50 s; writes nothing")
    parser.add_argument("--again", action="store_true", help="do what the results have already again, too")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--steps", type=int, default=3000)
    options = parser.parse_args()
    runs, steps = (20, 250) if options.quick else (options.runs, options.steps)
    if runs < 2 or steps < 2 * LAST:
        parser.error(f"--runs must be at least 2 and --steps at least {2 * LAST}")
    stored = RESULTS / "mmoe_synthetic.json"
    known = json.loads(stored.read_text()) if stored.is_file() and not options.quick and not options.again else {}
    found: dict[str, dict[str, Any]] = known["cases"] if (known.get("runs"), known.get("steps")) == (runs, steps) else {}
    for p, waves in [*((p, "generator") for p in CORRELATIONS), (0.5, "other")]:
        name = f"{p:g}{OTHER if waves == 'other' else ''}"
        some = runs if waves == "generator" else max(2, runs // 4)
        found[name] = found.get(name) or {model: case(model, p, some, steps, waves) for model in MODELS}
    text = table(found, runs, steps)
    print(text)
    if not options.quick:
        RESULTS.mkdir(exist_ok=True)
        stored.write_text(json.dumps({"runs": runs, "steps": steps, "cases": found}) + "\n")
        (RESULTS / "mmoe_synthetic.md").write_text(text + "\n")
        picture(found, RESULTS / "mmoe_synthetic.png")
    for p in ("0.5", "0.9", f"0.5{OTHER}"):
        for other in ("OMoE", "Shared-Bottom"):
            more, _, _ = difference(found[p]["MMoE"]["final"], found[p][other]["final"])
            print(claim(f"correlation {p}: final loss of {other} above MMoE's", more, 0, form=".4f"))
        spread = statistics.stdev(found[p]["MMoE"]["final"]) / statistics.stdev(found[p]["Shared-Bottom"]["final"])
        print(claim(f"correlation {p}: spread of MMoE's runs over Shared-Bottom's", spread, 1, at_most=True))
    same = abs(difference(found["1"]["MMoE"]["final"], found["1"]["OMoE"]["final"])[0])
    apart = abs(difference(found["0.5"]["MMoE"]["final"], found["0.5"]["OMoE"]["final"])[0])
    print(claim("control: difference of MMoE and OMoE at correlation 1 over that at 0.5", same / apart, 0.5, at_most=True))


if __name__ == "__main__":
    main()
