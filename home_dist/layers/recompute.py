"""Recomputation of activations in the backward: less memory for one more forward.

torch.utils.checkpoint recomputes. `within` and `again` tell modules about it: batch normalisation moves its running averages in
the first forward only, and the fused kernels hand all kept activations to save_for_backward.
"""

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

_state = threading.local()  # per thread: autograd runs the backward of a GPU in a thread of its own


def recomputed(function: Callable[..., Any], *arguments: Any) -> Any:
    """function(*arguments); only the arguments are kept for the backward, which calls the function a second time.

    The second call repeats collectives between ranks, on all ranks in the same order.
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
    """Sets the state of this thread inside a `with`. Reusable: each backward through a retained graph recomputes."""

    def __init__(self, again: bool):
        self.again = again

    def __enter__(self) -> None:
        self.before = (within(), again())
        _state.within, _state.again = True, self.again

    def __exit__(self, *error: object) -> None:
        _state.within, _state.again = self.before
