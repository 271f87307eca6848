"""A function of tensors as one program of torch.compile, whose kernels CUDA graphs may launch."""

from collections.abc import Callable
from typing import Any

import torch


def program(function: Callable[..., torch.Tensor], cuda_graphs: bool) -> Callable[..., torch.Tensor]:
    """The function, compiled at its first call, for arguments whose shapes stay.

    cuda_graphs: forward and backward are recorded as CUDA graphs, once the program has run a few times. torch keeps them in
    trees that share memory (CUDAGraph Trees), and copies into it what a step passes in. Calling raises RuntimeError where
    torch cannot record them.
    """
    if not cuda_graphs:
        return torch.compile(function, fullgraph=True, dynamic=False)
    options: dict[str, str | int | bool | Callable[..., Any]] = {"triton.cudagraphs": True, "triton.cudagraph_or_error": True}
    compiled = torch.compile(function, fullgraph=True, dynamic=False, options=options)

    def step(*arguments: torch.Tensor | None) -> torch.Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        return compiled(*arguments).clone()  # metrics keep logits, which the next step's graph would overwrite

    return step
