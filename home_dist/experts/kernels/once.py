"""Backwards that have no derivative of their own."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch.autograd.function import once_differentiable as _once


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """torch's, which gives zeros in place of some second derivatives: this raises RuntimeError where one is asked for."""
    inner = _once(backward)

    @wraps(backward)
    def checked(ctx: Any, *grads: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the compiled kernels have no second derivative (create_graph=True): set module.kernel = "
                "home_dist.EAGER on the modules"
            )
        return inner(ctx, *grads)

    return checked
