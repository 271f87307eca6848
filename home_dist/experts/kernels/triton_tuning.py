"""Which tile a Triton kernel takes: each device measures the candidates once. Import it only if Triton is installed.

Triton's autotuner measures per sizes and types. It keeps what it found in memory, and in Triton's cache on disk
(TRITON_CACHE_DIR, by default ~/.triton/cache): a file KERNEL.autotune.json per kernel's source, Triton version, compute
capability, candidates, sizes and types. Ranks measure on their own, and may take different tiles.

The first candidate is taken without a measurement where Triton interprets, and where torch's algorithms have to be
deterministic ([kernel] deterministic): sums over samples have another order with other tiles, and a run would not repeat to
the bit.
"""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
import triton

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_OF_LAUNCH = ("num_warps", "num_stages", "maxnreg")

Grid = Callable[[Mapping[str, Any]], tuple[int, ...]]


class Tuning(NamedTuple):
    """What a kernel's measurements depend on."""

    keys: tuple[str, ...]
    """Names of the kernel's arguments: sizes and constants. Types of tensors count in any case."""
    overwrites: Callable[[Mapping[str, Any]], str | None] = lambda arguments: None
    """Arguments by name -> the tensor that the kernel reads and overwrites, if there is one: measurements restore it."""


def near(samples: int) -> int:
    """The power of two from `samples` on: batches of about one size share a measurement."""
    return 1 << max(samples - 1, 0).bit_length()


def launch(
    kernel: Any, tuning: Tuning, candidates: Sequence[Any], grid: Grid, *arguments: Any, **constants: Any
) -> Mapping[str, Any]:
    """Launches a kernel with one of the candidates, and returns the candidate's values.

    candidates: dataclasses of constants of the kernel, num_warps, num_stages and maxnreg.
    """
    if INTERPRETED or len(candidates) == 1 or torch.are_deterministic_algorithms_enabled():
        tile = asdict(candidates[0])
        kernel[grid](*arguments, **constants, **tile)
        return tile
    tuner = _tuner(kernel, tuning, tuple(candidates))
    tuner[grid](*arguments, **constants)
    return tuner.best_config.all_kwargs()


@functools.cache
def _tuner(kernel: Any, tuning: Tuning, candidates: tuple[Any, ...]) -> Any:
    configs = []
    for candidate in candidates:
        constants = asdict(candidate)
        options = {name: constants.pop(name) for name in _OF_LAUNCH if name in constants}
        configs.append(triton.Config(constants, **options))
    kept: dict[str, torch.Tensor] = {}

    def before(arguments: Mapping[str, Any], reset_only: bool = False) -> None:
        name = tuning.overwrites(arguments)
        if name is not None and not reset_only:
            kept[name] = arguments[name].clone()

    def after(arguments: Mapping[str, Any], exception: Exception | None) -> None:
        for name in list(kept):
            arguments[name].copy_(kept.pop(name))

    return triton.autotune(configs, key=list(tuning.keys), pre_hook=before, post_hook=after, cache_results=True)(kernel)
