"""A function of tensors as one program of torch.compile, whose kernels CUDA graphs may launch."""

from collections.abc import Callable
from typing import Any

import torch
from torch._functorch import config as functorch

from home_dist.errors import ConfigError


def program(function: Callable[..., torch.Tensor], cuda_graphs: bool, repeated: bool = False) -> Callable[..., torch.Tensor]:
    """The function, compiled at its first call, for arguments whose shapes stay.

    cuda_graphs: forward and backward are recorded as a CUDA graph each, once the program has run a few times. torch keeps
    them in trees that share memory (CUDAGraph Trees), and copies into it what a step passes in. Where torch cannot record a
    forward the call raises ConfigError. repeated: some steps pass through the backward several times; this process's
    programs then keep what the backward reads, instead of computing in its place.
    """
    if repeated:
        functorch.donated_buffer = False
    if not cuda_graphs:
        return torch.compile(function, fullgraph=True, dynamic=False)
    # Without partitions, in which torch leaves out what it cannot record and says nothing.
    options: dict[str, str | int | bool | Callable[..., Any]] = {
        "triton.cudagraphs": True,
        "triton.cudagraph_or_error": True,
        "graph_partition": False,
    }
    compiled = torch.compile(function, fullgraph=True, dynamic=False, options=options)

    def step(*arguments: torch.Tensor | None) -> torch.Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        try:
            out = compiled(*arguments)
        except RuntimeError as error:
            if "cudagraph" in str(error).lower():
                raise ConfigError(
                    f"kernel.cuda_graphs: torch cannot record this model's steps ({error}). Leave it out"
                ) from error
            raise
        return out.clone()  # metrics keep logits, which the next step's graph would overwrite

    return step
