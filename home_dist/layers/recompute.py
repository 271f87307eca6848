"""Recomputation of activations in the backward: saves memory at the price of one more forward.

torch.utils.checkpoint recomputes. Modules ask `within` and `again`: batch normalisation moves its running averages only in the
first forward, and the fused kernels pass all kept activations to save_for_backward.
"""

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

_state = threading.local()  # per thread, because autograd runs a GPU's backward in its own thread


def recomputed(function: Callable[..., Any], *arguments: Any) -> Any:
    """function(*arguments). Keeps only the arguments for the backward, which calls the function a second time.

    The second call repeats the function's collectives, on all ranks in the same order.
    """
    if not torch.is_grad_enabled():
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False, context_fn=lambda: (_Within(again=False), _Within(again=True)))


def within() -> bool:
    """Whether this thread runs a recomputed function, the first or the second time."""
    return getattr(_state, "within", False)


def again() -> bool:
    """Whether this thread runs a recomputed function the second time."""
    return getattr(_state, "again", False)


class _Within:
    """Sets this thread's state inside a `with`. Reusable, because each backward through a retained graph recomputes."""

    def __init__(self, again: bool):
        self.again = again

    def __enter__(self) -> None:
        self.before = (within(), again())
        _state.within, _state.again = True, self.again

    def __exit__(self, *error: object) -> None:
        _state.within, _state.again = self.before
