"""The expert bank against experts in a Python loop, and against its own matrix products: speed, memory, launches.

    python benchmarks/expert_bank.py --quick    # under a minute: few repeats, the large shape at an eighth of its batch
    python benchmarks/expert_bank.py            # some eight minutes: torch.compile and the scaling plot as well

All systems of a comparison take turns in one process, set as home-dist sets its own (home_dist/process.py), and ratios are of
medians. The full run writes results/expert_bank.json,
from which `--table` makes the Markdown table and the plot anew.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from home_dist import process  # noqa: E402

process.prepare()

import torch  # noqa: E402

from benchmarks.expert_bank_measures import flops, launches, medians, moved_bytes, peak_bytes, share_of_cores  # noqa: E402
from benchmarks.expert_bank_peers import HomeOfModules, Loop, floor, home  # noqa: E402
from benchmarks.expert_bank_report import claims, plot, table  # noqa: E402
from benchmarks.machine import write_result  # noqa: E402
from home_dist.config import KernelSection  # noqa: E402
from home_dist.experts import ExpertBank  # noqa: E402
from home_dist.experts.kernels import EAGER, Kernel, KernelUser, choose  # noqa: E402
from home_dist.models import TaskGroups  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "expert_bank.json"
SHAPES = {"small": (512, 128, 64, 32, 8, 4), "middle": (2048, 512, 256, 128, 12, 6), "large": (4096, 1024, 512, 256, 24, 12)}
"""B, F, H, D, E, K"""
TASKS = TaskGroups((0,) * 6 + (1,) * 6)
SCALING_BASE = {"B": 1024, "F": 256, "H": 128, "D": 64, "E": 8, "K": 8}
SCALING = {"E": (4, 8, 16, 32, 64), "K": (2, 6, 12, 24, 48), "B": (256, 512, 1024, 2048, 4096, 8192)}


class Shape:
    """The systems of one shape, with equal weights and inputs."""

    def __init__(self, samples: int, in_dim: int, hidden: int, out_dim: int, experts: int, gates: int):
        torch.manual_seed(0)
        self.bank = ExpertBank([experts], in_dim, [hidden], out_dim, norm=True)
        self.loop = Loop(self.bank)
        self.samples = samples
        self.x = torch.randn(samples, in_dim, requires_grad=True)
        self.gates = torch.randn(gates, samples, experts).softmax(-1).requires_grad_()
        self.pull = torch.randn(gates, samples, out_dim)

    def step(self, kernel: Kernel | None, compiled: Any = None) -> torch.Tensor:
        """Forward and backward; without a kernel, of the loop."""
        module = self.bank if kernel else self.loop
        for leaf in (self.x, self.gates, *module.parameters()):
            leaf.grad = None
        if kernel:
            self.bank.kernel = kernel
            out = self.bank.mixed([self.x], self.gates)
        else:
            out = (self.loop if compiled is None else compiled)(self.x, self.gates)
        out.backward(self.pull)
        return out

    def leaves(self) -> list[torch.Tensor]:
        return [self.x, self.gates, *self.bank.parameters(), *self.loop.parameters()]

    def check(self, kernel: Kernel) -> None:
        """All compute the same, or nothing is worth timing."""
        expected = self.step(None).detach()
        gradient = self.x.grad.clone()
        torch.testing.assert_close(self.step(kernel).detach(), expected, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(self.x.grad, gradient, rtol=1e-3, atol=1e-3 * gradient.abs().max().item())

    def peaks(self, compiled: Any = None) -> dict[str, int]:
        return {name: peak_bytes(step, self.leaves()) for name, step in self.systems(compiled, floors=False).items()}

    def systems(self, compiled: Any = None, floors: bool = True) -> dict[str, Any]:
        found = {"loop": lambda: self.step(None), "eager": lambda: self.step(EAGER), "cpu": lambda: self.step(Kernel("cpu"))}
        if floors:
            found["floor"] = floor(self.bank, self.samples)
        if compiled is not None:
            found["compiled"] = lambda: self.step(None, compiled)
        return found


def measure_shape(name: str, quick: bool) -> dict[str, Any]:
    sizes = SHAPES[name]
    if quick and name == "large":
        sizes = (sizes[0] // 8, *sizes[1:])
    shape = Shape(*sizes)
    shape.check(Kernel("cpu"))
    result: dict[str, Any] = {"shape": dict(zip("BFHDEK", sizes, strict=True))}
    compiled = None
    if not quick:
        compiled = torch.compile(shape.loop)
        start = time.perf_counter()
        shape.step(None, compiled)
        result["compile_seconds"] = time.perf_counter() - start
    repeats = {"small": 9, "middle": 5, "large": 3} if quick else {"small": 21, "middle": 9, "large": 7}
    result["seconds"] = medians(shape.systems(compiled), repeats[name], at_least=0.02)
    result["peak_bytes"] = shape.peaks(compiled)
    result["flops"], result["moved_bytes"] = flops(*sizes), moved_bytes(*sizes)
    return result


def measure_bf16(quick: bool) -> dict[str, Any]:
    kernel = choose(torch.device("cpu"), KernelSection(precision="bf16"))
    if kernel.precision != "bf16":
        return {"skipped": kernel.reason}
    shape = Shape(*SHAPES["middle"])
    steps = {p: lambda p=p: shape.step(Kernel("cpu", p)) for p in ("fp32", "bf16")}
    return {"seconds": medians(steps, 5 if quick else 9)}


def home_steps(
    group_experts: int, in_dim: int, samples: int, tasks: TaskGroups = TASKS, hidden: int = 128, out_dim: int = 64
) -> tuple[dict[str, Any], list[torch.Tensor]]:
    torch.manual_seed(0)
    model = home(group_experts, in_dim, hidden, out_dim, tasks)
    modules = HomeOfModules(model, tasks)
    v = torch.randn(samples, in_dim, requires_grad=True)
    torch.testing.assert_close(model(v), modules(v), rtol=1e-3, atol=1e-3)

    def step(kernel: Kernel | None) -> None:
        whole = model if kernel else modules
        for leaf in (v, *whole.parameters()):
            leaf.grad = None
        for part in model.modules():
            if isinstance(part, KernelUser):
                part.kernel = kernel or EAGER
        whole(v).square().sum().backward()

    kernels = {"modules": None, "eager": EAGER, "cpu": Kernel("cpu")}
    if os.environ.get("TRITON_INTERPRET") == "1":
        kernels["triton"] = Kernel("triton")
    steps = {name: lambda kernel=kernel: step(kernel) for name, kernel in kernels.items()}
    return steps, [v, *model.parameters(), *modules.parameters()]


def measure_home(quick: bool) -> dict[str, Any]:
    samples = 1024
    steps, leaves = home_steps(2, 512, samples)
    seconds = medians(steps, 3 if quick else 9)
    return {
        "samples": samples,
        "seconds": seconds,
        "samples_per_second": {n: samples / s for n, s in seconds.items()},
        "peak_bytes": {n: peak_bytes(s, leaves) for n, s in steps.items()},
    }


def measure_launches(quick: bool) -> dict[str, Any]:
    """Of a whole HoME's training step: by experts per group, then by tasks. Triton's in a process of its own: whether it
    interprets its kernels is settled when it is imported."""
    found = launches_of(("modules", "eager"), quick)
    if quick or importlib.util.find_spec("triton") is None:  # minutes, as the kernels are interpreted
        return found
    command = [sys.executable, "-W", "ignore", __file__, "--triton-launches"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    for axis, rows in json.loads(ended.stdout.strip().splitlines()[-1]).items():
        for value, row in rows.items():
            found[axis][value].update(row)
    return found


def launches_of(systems: tuple[str, ...], quick: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"experts_per_group": {}, "tasks": {}}
    for count in (2, 8) if quick else (2, 4, 8):
        steps, _ = home_steps(count, 16, 8, hidden=8, out_dim=8)
        counted = systems if count == 2 or not quick else [n for n in systems if n != "modules"]
        found["experts_per_group"][str(count)] = {n: launches(steps[n]) for n in counted}
    for count in (4, 12):
        steps, _ = home_steps(2, 16, 8, TaskGroups(tuple(k % 2 for k in range(count))), hidden=8, out_dim=8)
        found["tasks"][str(count)] = {n: launches(steps[n]) for n in systems}
    return found


def measure_scaling() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for axis, values in SCALING.items():
        found[axis] = []
        for value in values:
            sizes = {**SCALING_BASE, axis: value}
            shape = Shape(*(sizes[letter] for letter in "BFHDEK"))
            steps = shape.systems(floors=False)
            seconds = medians(steps, 3, at_least=0.01)
            found[axis].append({"value": value, "seconds": seconds, "peak_bytes": shape.peaks()})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under a minute; writes nothing")
    parser.add_argument("--table", action="store_true", help="only the table and the plot, from the last full run's JSON")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, default=min(2, cores), help="1 times processor time: for busy machines")
    parser.add_argument("--triton-launches", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.triton_launches:
        print(json.dumps(launches_of(("triton",), quick=False)))
        return
    if not options.table:
        torch.set_num_threads(options.threads)
        product = floor(ExpertBank([4], 512, [256], 128, norm=True), 2048)
        result: dict[str, Any] = {
            "torch": torch.__version__,
            "threads": options.threads,
            "share_of_cores": share_of_cores(product),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "passes": choose(torch.device("cpu"), KernelSection(backend="cpu")).reason,
            "quick": options.quick,
            "shapes": {name: measure_shape(name, options.quick) for name in SHAPES},
            "bf16": measure_bf16(options.quick),
            "home": measure_home(options.quick),
            "launches": measure_launches(options.quick),
        }
        if not options.quick:
            result["scaling"] = measure_scaling()
            write_result(RESULTS, result)
    else:
        result = json.loads(RESULTS.read_text())
    text = table(result)
    print(text)
    if not options.quick:
        RESULTS.with_suffix(".md").write_text("\n".join([text, "", *(f"- {line}" for line in claims(result) if line), ""]))
        plot(result, RESULTS.with_suffix(".png"))
    print("\n".join(claims(result)))


if __name__ == "__main__":
    main()
