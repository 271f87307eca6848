"""Times, memory and launches of a training step."""

import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

Step = Callable[[], object]

# Operators that only describe or reserve memory: a GPU launches nothing for them.
_NO_LAUNCH = {
    "view", "reshape", "_reshape_alias", "_unsafe_view", "t", "transpose", "permute", "expand", "unsqueeze", "squeeze", "slice",
    "select", "split", "split_with_sizes", "chunk", "unbind", "flatten", "unflatten", "as_strided", "alias", "detach",
    "expand_as", "view_as", "narrow", "empty", "empty_like", "empty_strided", "new_empty", "resize_", "set_", "lift_fresh",
    "result_type", "_has_compatible_shallow_copy_type", "item", "_local_scalar_dense", "is_nonzero", "unsafe_split", "diagonal",
}  # fmt: skip


def clock() -> float:
    """Seconds. Of one thread its own processor time, which other processes hardly change."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def share_of_cores(step: Step, seconds: float = 1.0) -> float:
    """How much of the cores that its threads could use this process gets: well below 1, other processes disturb the timing."""
    step()
    wall, own = time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < seconds:
        step()
    return (time.process_time() - own) / (time.perf_counter() - wall) / torch.get_num_threads()


def medians(systems: dict[str, Step], repeats: int, at_least: float = 0.0) -> dict[str, float]:
    """Seconds per step of each system, the median of repeats that take turns: what disturbs one disturbs all.

    A repeat is as many steps as take `at_least` seconds.
    """
    inner = {}
    for name, step in systems.items():
        step()
        start = clock()
        step()
        inner[name] = max(1, round(at_least / (clock() - start)))
    found: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(repeats):
        for name, step in systems.items():
            start = clock()
            for _ in range(inner[name]):
                step()
            found[name].append((clock() - start) / inner[name])
    return {name: statistics.median(times) for name, times in found.items()}


def peak_bytes(step: Step, leaves: Iterable[torch.Tensor]) -> int:
    """The most that torch had allocated during a step beyond what was there before; gradients of the leaves count."""
    for leaf in leaves:
        leaf.grad = None
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        step()
    held = peak = 0
    changes = [e for e in trace.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(changes, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def launches(step: Step) -> int:
    """Operators of a step that compute something, as the profiler lists them: what a GPU would launch, one by one."""
    step()  # tables that are made once
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        step()
    return sum(_launches(e) for e in trace.events())


def _launches(event: Any) -> bool:
    kind, _, name = event.name.partition("::")
    if kind == "triton":
        return True
    inner = any(c.name.startswith("aten::") for c in event.cpu_children)
    return kind == "aten" and not inner and name not in _NO_LAUNCH and not _within_kernel(event)


def _within_kernel(event: Any) -> bool:
    """Whether the operator is the interpreter's, at work for a Triton kernel."""
    parent = event.cpu_parent
    while parent is not None:
        if parent.name.startswith("triton::"):
            return True
        parent = parent.cpu_parent
    return False


def flops(samples: int, in_dim: int, hidden: int, out_dim: int, experts: int, gates: int) -> int:
    """Of a training step: three products of each layer and three of the mixture."""
    return 6 * samples * experts * (in_dim * hidden + hidden * out_dim + gates * out_dim)


def moved_bytes(samples: int, in_dim: int, hidden: int, out_dim: int, experts: int, gates: int) -> dict[str, int]:
    """What a training step reads and writes in fp32 if each operator reads its operands and writes its result once."""
    x, h, y = samples * in_dim, experts * samples * hidden, experts * samples * out_dim
    w, mixed = experts * hidden * (in_dim + out_dim), gates * samples * out_dim
    weights = samples * gates * experts
    products = (experts * x + h) * 3 + (h + y) * 3 + 3 * w  # both layers: forward, by weights, by inputs
    # Forward: ReLU 2h; moments y, normalise 2y, Swish 2y, stack 2y, mixture y. Backward: mixture 2y, unstack 2y, Swish 3y,
    # normalisation 5y, ReLU 3h, bias h, sum over experts 2x each.
    loop = products + 6 * h + 20 * y + 3 * mixed + 4 * weights + 2 * experts * x
    # Forward: bias and ReLU 2h; moments y; mixture y. Backward: sums y, inner 2y, ReLU and bias 3h.
    fused = products + 5 * h + 5 * y + 3 * mixed + 4 * weights
    return {"loop": 4 * loop, "fused": 4 * fused}
