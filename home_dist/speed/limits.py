"""Measures the device's limits: FLOP/s of matrix products, bytes/s of memory."""

import statistics
import time
from collections.abc import Callable

import torch

_REPEATS = 5
_SIDE = {"cpu": 1536, "cuda": 8192}  # of square matrices
_COPIED = {"cpu": 2**28, "cuda": 2**31}  # bytes, far more than caches hold


def products_per_second(device: torch.device, precision: str) -> float:
    """FLOP/s of one large torch.mm in the run's precision ("fp32" or "bf16")."""
    side = _SIDE[device.type]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2.0 * side**3 / _seconds(lambda: torch.mm(a, b, out=out), device)


def bytes_per_second(device: torch.device) -> float:
    """Bytes/s of a copy; bytes read and bytes written both count."""
    source = torch.ones(_COPIED[device.type] // 4, device=device)
    target = torch.empty_like(source)
    return 2.0 * source.nbytes / _seconds(lambda: target.copy_(source), device)


def _seconds(action: Callable[[], object], device: torch.device) -> float:
    """Median seconds of `_REPEATS` calls, after a first call that allocates."""
    action()
    took = []
    for _ in range(_REPEATS):
        synchronise(device)
        began = time.perf_counter()
        action()
        synchronise(device)
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
