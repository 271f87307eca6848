"""Scoring models as torch.export programs, and compiled by AOTInductor."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from home_dist.config import KernelSection
from home_dist.errors import ConfigError
from home_dist.experts import kernels
from home_dist.export.numbers import Inputs
from home_dist.export.program_inputs import Input
from home_dist.sequence.history import History

Scoring = Callable[[Inputs], torch.Tensor]
_MOST = 1 << 30
_EXAMPLE_ROWS = 8
_INDUCTOR = {
    # Each header is used by one file: compiling it first takes longer than it saves.
    "aot_inductor.precompile_headers": False,
    # The code that calls kernels: thousands of lines, with next to no share in the time of a call.
    "aot_inductor.compile_wrapper_opt_level": "O0",
    # Else parameters of a few values become part of the code, where no other version's can take their place.
    "always_keep_tensor_constants": True,
}


def exported(scorer: nn.Module, inputs: dict[str, Input]) -> torch.export.ExportedProgram:
    kernels.select(scorer, KernelSection(backend="eager"), torch.device("cpu"))
    samples = torch.export.Dim("samples", min=1, max=_MOST)
    groups = {
        g: torch.export.Dim(f"events_{n}", min=0, max=_MOST)
        for n, g in enumerate(sorted({i.group for i in inputs.values() if i.group}))
    }
    shapes = {n: {0: groups[i.group] if i.group and i.kind != "lengths" else samples} for n, i in inputs.items()}
    try:
        with torch.no_grad(), _traceable():
            return torch.export.export(scorer, (example(inputs),), dynamic_shapes=(shapes,), strict=True)
    except Exception as error:  # torch.export has many ways to refuse a network
        first = next((line for line in str(error).splitlines() if line.strip()), repr(error))
        raise ConfigError(
            f"torch.export does not take this network: {first[:300]}. All models and histories of home_dist export; a class of "
            "your own may not be traceable. --format safetensors exports any network's weights."
        ) from None


@contextmanager
def _traceable() -> Iterator[None]:
    """Replaces cached properties, whose lock torch cannot trace, by ordinary ones."""
    cached = {name: value for name, value in vars(History).items() if isinstance(value, cached_property)}
    for name, value in cached.items():
        setattr(History, name, property(value.func))
    try:
        yield
    finally:
        for name, value in cached.items():
            setattr(History, name, value)


def example(inputs: dict[str, Input]) -> Inputs:
    """Inputs of the right kinds, with 1 + (row % 3) values per list."""
    lengths = torch.arange(_EXAMPLE_ROWS) % 3 + 1
    tensors: Inputs = {}
    for name, item in inputs.items():
        count = int(lengths.sum()) if item.group else _EXAMPLE_ROWS
        tensors[name] = lengths.clone() if item.kind == "lengths" else torch.zeros(count, *item.shape, dtype=item.dtype)
    return tensors


def compile_program(program: torch.export.ExportedProgram, path: Path) -> None:
    """Writes a package of AOTInductor, for this machine's kind of processor."""
    torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=_INDUCTOR)
