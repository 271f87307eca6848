"""What serves all classes that users may write: checks whose messages name file, class, what came and what was expected, and a
docstring for `help`."""

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from home_dist.errors import ConfigError


def take_docstring(cls: type) -> None:
    """Gives a class without a docstring that of its module, where the equation of its one model or encoder stands."""
    if not cls.__doc__:
        cls.__doc__ = getattr(sys.modules.get(cls.__module__), "__doc__", None)


def place_of(cls: type) -> str:
    """FILE: Class"""
    try:
        return f"{inspect.getfile(cls)}: {cls.__qualname__}"
    except (TypeError, OSError):  # defined in a shell
        return f"{cls.__module__}: {cls.__qualname__}"


def check_takes(function: Callable[..., Any], name: str, cls: type, *arguments: Any) -> None:
    """Raises ConfigError for a constructor or method that does not take the arguments it will be given."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        given = ", ".join(type(argument).__name__ for argument in arguments)
        raise ConfigError(f"{place_of(cls)}.{name} does not take ({given}), which it is called with: {error}") from None


def check_width(module: nn.Module) -> None:
    """Raises ConfigError for a module whose `out_dim`, the width of its result, is missing or no width."""
    width = getattr(module, "out_dim", None)
    if not isinstance(width, int) or width < 1:
        found = "has no attribute `out_dim`" if width is None else f"has out_dim = {width!r}"
        raise ConfigError(
            f"{place_of(type(module))} {found}: set it in __init__ to the width of what forward returns, 1 or more"
        )


def check_result(module: nn.Module, method: str, result: Any, expected: Mapping[str, int]) -> None:
    """Raises ConfigError for a result that is no tensor of the shape `expected`: sizes by letter, in order. While torch
    traces, when sizes are symbols, nothing is checked."""
    if torch.compiler.is_compiling():
        return
    sizes = tuple(expected.values())
    if isinstance(result, torch.Tensor) and result.shape == sizes and result.is_floating_point():
        return
    came = f"{tuple(result.shape)} of {result.dtype}" if isinstance(result, torch.Tensor) else f"a {type(result).__name__}"
    raise ConfigError(
        f"{place_of(type(module))}.{method} returned {came}; expected is a tensor of floats ({', '.join(expected)}) = {sizes}"
    )
