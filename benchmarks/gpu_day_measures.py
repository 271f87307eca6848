"""Times, memory and CUDA graphs of steps on a GPU, or on a CPU in its place."""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from home_dist.layers.kept_bytes import KeptBytes

Step = Callable[[], object]
AT_LEAST = 0.02
"""Seconds of a repeat on a GPU."""


def tell(item: str, **values: Any) -> None:
    print(json.dumps({"item": item, **values}), flush=True)


def clear(module: nn.Module, *leaves: torch.Tensor) -> None:
    for tensor in (*leaves, *module.parameters()):
        tensor.grad = None


def finished() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def in_turns(systems: Mapping[str, Step], repeats: int) -> dict[str, float]:
    """Seconds of a step of each system, the median of repeats that take turns. A repeat is as many steps as take AT_LEAST, and
    ends when the GPU has done them. One repeat, which only tries, is one step without a warm-up."""
    inner = {}
    for name, step in systems.items():
        if repeats == 1:
            inner[name] = 1
            continue
        for _ in range(3):
            step()
        finished()
        began = time.perf_counter()
        step()
        finished()
        inner[name] = max(1, round(AT_LEAST / max(1e-6, time.perf_counter() - began)))
    found: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(repeats):
        for name, step in systems.items():
            began = time.perf_counter()
            for _ in range(inner[name]):
                step()
            finished()
            found[name].append((time.perf_counter() - began) / inner[name])
    return {name: statistics.median(times) for name, times in found.items()}


def peak_of(step: Step) -> int:
    """Bytes, on a GPU: the most that torch held during a step."""
    finished()
    torch.cuda.reset_peak_memory_stats()
    step()
    finished()
    return torch.cuda.max_memory_allocated()


def kept_bytes(module: nn.Module, v: torch.Tensor, labels: torch.Tensor) -> tuple[int, int]:
    """FLOPs of a step of torch's operators, and bytes that its forward keeps for the backward, without parameters."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    clear(module, v)
    kept = KeptBytes(own)
    with FlopCounterMode(display=False) as counted, kept:
        module(v, labels).backward()
    return counted.get_total_flops(), kept.total


def graphed(loss: Callable[[], torch.Tensor], leaves: Sequence[torch.Tensor]) -> Step:
    """A step, forward and backward, as a CUDA graph. Raises RuntimeError if it cannot be captured."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            for tensor in leaves:
                tensor.grad = None
            loss().backward()
    torch.cuda.current_stream().wait_stream(stream)
    for tensor in leaves:
        tensor.grad = None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss().backward()
    return graph.replay
