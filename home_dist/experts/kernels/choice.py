"""Selects the backend that computes the experts of a network, and says why."""

import functools
import importlib.util
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from home_dist.config import KernelSection
from home_dist.errors import ConfigError
from home_dist.experts.kernels import cpu_library
from home_dist.experts.kernels.operands import Precision

Backend = Literal["eager", "cpu", "triton", "compile"]

WIDTH_MULTIPLE = 8
"""The Triton kernels take widths that are multiples of this: rows of 16 bytes in bf16, as the loads of tensor cores want."""


@dataclass(frozen=True)
class Kernel:
    """How experts are computed, and why so."""

    backend: Backend = "eager"
    precision: Precision = "fp32"
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.backend}, {self.precision}" + (f" ({self.reason})" if self.reason else "")


EAGER = Kernel()
_DEVICES = ("cpu", "cuda")
"""Types of devices that have a backend of their own."""
_OPERATORS = ("eager", "compile")
"""Backends of plain operators, which compute whatever there is."""
_TRACED = Kernel(reason="a program that is traced consists of torch's operators")
_WATCHED = Kernel(reason="a mode or transformation of torch looks at its operators")
_AUTOCAST = Kernel(reason="torch's autocast chooses types")
_NO_PARAMETERS = Kernel(reason="nothing tells its device")

Widths = tuple[tuple[str, tuple[int, ...]], ...]
"""(name, widths), see KernelUser.widths."""


class _AtUse:
    """The kernel of a module until one is set: chosen whenever it is asked for, as `KernelUser.unselected` says."""

    def __get__(self, module: Any, owner: Any = None) -> Kernel:
        return EAGER if module is None else module.unselected()


class KernelUser(nn.Module):
    """A module with several backends.

    A run sets one for its whole network (`select`), and `module.kernel = EAGER` sets one by hand. A module that has got none
    takes the backend that its device has, in fp32, each time that it runs: a bank of one's own needs no call. `module.kernel`
    tells which one, and why. The backends cpu and triton have no second derivative (`create_graph`): set EAGER for that.
    Ranks that normalise together have to take one backend: where hosts differ, set it.
    """

    kernel: Kernel = cast(Kernel, _AtUse())

    def only_eager(self) -> str:
        """Settings for which there is no backend but eager; empty without."""
        return ""

    def widths(self) -> dict[str, Sequence[int]]:
        """The module's widths that the Triton kernels restrict, by name in the configuration."""
        return {}

    def unselected(self) -> Kernel:
        """The kernel that fits the module's device, types and widths. Eager where torch traces, transforms or watches its
        operators, and under autocast."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return _TRACED
        parameter = next(self.parameters(), None)
        if parameter is None:
            return _NO_PARAMETERS
        watched = type(parameter) not in (nn.Parameter, torch.Tensor) or _get_current_dispatch_mode() is not None
        if watched or torch._C._functorch.peek_interpreter_stack() is not None:
            return _WATCHED
        if parameter.device.type in _DEVICES and torch.is_autocast_enabled(parameter.device.type):
            return _AUTOCAST
        return _fitting(parameter.device, parameter.dtype, tuple((name, tuple(w)) for name, w in self.widths().items()))


@functools.cache
def _fitting(device: torch.device, dtype: torch.dtype, widths: Widths) -> Kernel:
    """The kernel of a module that none was selected for. A warning, once, says why a CPU or GPU does without its own."""
    kernel, takes = choose(device, KernelSection()), {"cpu": (torch.float32, torch.float64), "triton": (torch.float32,)}
    if kernel.backend != "eager" and dtype not in takes[kernel.backend]:
        return Kernel(reason=f"the {kernel.backend} kernel does not compute in {dtype}")
    unfit = "; ".join(_unfit(dict(widths))) if kernel.backend == "triton" else ""
    kernel = Kernel(reason=unfit) if unfit else kernel
    if kernel.backend == "eager" and device.type in _DEVICES:
        logging.getLogger(__name__).warning("experts run on plain torch operators: %s", kernel.reason)
    return kernel


def choose(device: torch.device, wanted: KernelSection) -> Kernel:
    """The backend and precision for a device. Raises ConfigError if the wanted backend cannot run on it."""
    backend, reason = _backend(device, wanted.backend)
    kernel = Kernel(backend, "fp32", reason)
    if wanted.precision == "bf16":
        if _has_bf16(device):
            return replace(kernel, precision="bf16")
        which = "GPU" if device.type == "cuda" else "processor"
        return replace(kernel, reason=f"{reason}; this {which} has no bf16 products, so fp32")
    return kernel


def select(network: nn.Module, wanted: KernelSection, device: torch.device, chosen: Kernel | None = None) -> Kernel:
    """Sets the backend of all modules of a network that have several.

    If the Triton kernels do not take the network's widths, backend = "auto" selects eager, and "triton" raises ConfigError.
    chosen: the kernel that all ranks take, see `common`; by default what `choose` gives.
    """
    kernel = choose(device, wanted) if chosen is None else chosen
    users = [m for m in network.modules() if isinstance(m, KernelUser)]
    alone = "; ".join(sorted({user.only_eager() for user in users} - {""}))
    if alone and wanted.backend not in ("auto", *_OPERATORS):
        raise ConfigError(
            f'kernel.backend = "{wanted.backend}": {alone} is computed by "eager" alone. Use "auto", or leave it out'
        )
    if alone and kernel.backend not in _OPERATORS:
        kernel = replace(kernel, backend="eager", reason=f"for {alone}")
    if kernel.backend == "triton":
        unfit = "; ".join(sorted({problem for user in users for problem in _unfit(user.widths())}))
        if unfit and wanted.backend == "triton":
            raise ConfigError(f'kernel.backend = "triton": {unfit}, or set kernel.backend = "eager"')
        if unfit:
            kernel = replace(kernel, backend="eager", reason=unfit)
    for user in users:
        user.kernel = kernel
    return kernel


def common(of_ranks: Sequence[Kernel], rank: int) -> Kernel:
    """The kernel that all ranks take, where hosts differ: backends exchange other sums in a backward, and must not be mixed."""
    kernel = of_ranks[rank]
    if len({k.backend for k in of_ranks}) > 1:
        other = next((r for r, k in enumerate(of_ranks) if k.backend == "eager"), 0)
        kernel = Kernel("eager", kernel.precision, f"as on rank {other}: {of_ranks[other].reason}")
    if len({k.precision for k in of_ranks}) > 1:
        other = next(r for r, k in enumerate(of_ranks) if k.precision == "fp32")
        kernel = replace(kernel, precision="fp32", reason=f"{kernel.reason}; fp32 as on rank {other}")
    return kernel


def _unfit(of_module: Mapping[str, Sequence[int]]) -> list[str]:
    problems = []
    for name, widths in of_module.items():
        for width in widths:
            if width % WIDTH_MULTIPLE:
                lower = max(width // WIDTH_MULTIPLE, 1) * WIDTH_MULTIPLE
                fitting = [lower] if lower > width else [lower, lower + WIDTH_MULTIPLE]
                problems.append(f"{name} = {width} is no multiple of {WIDTH_MULTIPLE}: choose {' or '.join(map(str, fitting))}")
    return problems


def _backend(device: torch.device, wanted: str) -> tuple[Backend, str]:
    if wanted == "eager":
        return "eager", "as configured"
    if wanted == "compile":
        missing = _no_compiler(device)
        if missing:
            raise ConfigError(f'kernel.backend = "compile": {missing}. Use "auto" or "eager"')
        return "compile", "a step's experts, gates and towers are one program of torch.compile"
    if wanted == "auto" and device.type not in _DEVICES:
        return "eager", f"no other backend runs on {device.type}"
    if wanted == "cpu" and device.type != "cpu":
        raise ConfigError(f'kernel.backend = "cpu": this run is on {device.type}. Use "auto", "triton" or "eager"')
    if wanted == "cpu" or (wanted == "auto" and device.type == "cpu"):
        missing = cpu_library.unavailable()
        if missing and wanted == "cpu":
            raise ConfigError(f'kernel.backend = "cpu": no compiled passes, {missing}. Use "auto" or "eager"')
        return ("eager", f"no compiled passes: {missing}") if missing else ("cpu", "passes compiled for this processor")
    missing = _triton_missing(device)
    if missing and wanted == "triton":
        raise ConfigError(f'kernel.backend = "triton": {missing}. Use "auto", which takes what the device has')
    if missing:
        return "eager", missing
    return "triton", "device has CUDA" if device.type == "cuda" else "interpreted"


def _no_compiler(device: torch.device) -> str:
    """Why torch.compile makes no program for the device; empty if it does."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    compiler = os.environ.get("CXX", "g++")
    return "" if shutil.which(compiler.split()[0]) else f"no C++ compiler {compiler!r}"


def _triton_missing(device: torch.device) -> str:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"Triton needs a GPU, and this run is on {device.type}"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        return "the kernels need a GPU of compute capability 8.0 or later"
    return ""


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    features = torch.cpu.get_capabilities()
    return any(features.get(f, False) for f in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
