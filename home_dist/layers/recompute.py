"""Activations that are computed anew in the backward instead of being kept: less memory for one more forward.

torch.utils.checkpoint does it. Here is what must know that it does: running averages follow a batch once, and the fused kernels
hand over all that they keep.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

_state = threading.local()  # the backward of a GPU runs in a thread of its own


def recomputed(function: Callable[..., Any], *arguments: Any) -> Any:
    """function(*arguments), of which nothing but the arguments is kept for the backward.

    Exchange between ranks within it happens a second time in the backward, on all ranks alike.
    """
    if not torch.is_grad_enabled():
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False, context_fn=lambda: (_within(again=False), _within(again=True)))


def within() -> bool:
    """Whether what is computed now is computed twice."""
    return getattr(_state, "within", False)


def again() -> bool:
    """Whether it is the second time."""
    return getattr(_state, "again", False)


@contextmanager
def _within(again: bool) -> Iterator[None]:
    before = (within(), getattr(_state, "again", False))
    _state.within, _state.again = True, again
    try:
        yield
    finally:
        _state.within, _state.again = before
