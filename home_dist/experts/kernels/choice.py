"""Which backend computes a network's experts, and why."""

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from home_dist.config import KernelSection
from home_dist.errors import ConfigError
from home_dist.experts.kernels.operands import Precision

Backend = Literal["eager", "cpu", "triton"]

WIDTH_MULTIPLE = 8
"""Of the widths that the Triton kernels take: rows of 16 bytes in bf16, what a tensor core's loads want."""


@dataclass(frozen=True)
class Kernel:
    backend: Backend = "eager"
    precision: Precision = "fp32"
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.backend}, {self.precision}" + (f" ({self.reason})" if self.reason else "")


EAGER = Kernel()


class KernelUser(nn.Module):
    """A module whose work a backend may take over; eager until one is selected."""

    kernel: Kernel = EAGER

    def widths(self) -> dict[str, Sequence[int]]:
        """The widths that a kernel must fit, by the configuration's name."""
        return {}


def choose(device: torch.device, wanted: KernelSection) -> Kernel:
    """Raises ConfigError where the wanted backend cannot run on the device."""
    backend, reason = _backend(device, wanted.backend)
    kernel = Kernel(backend, "fp32", reason)
    if wanted.precision == "bf16":
        if _has_bf16(device):
            return replace(kernel, precision="bf16")
        which = "GPU" if device.type == "cuda" else "processor"
        return replace(kernel, reason=f"{reason}; this {which} has no bf16 products, so fp32")
    return kernel


def select(network: nn.Module, wanted: KernelSection, device: torch.device) -> Kernel:
    """Sets the backend of all expert banks and feature gates of a network.

    Widths that the Triton kernels do not take: under backend = "auto" the network stays eager, otherwise ConfigError.
    """
    kernel = choose(device, wanted)
    users = [m for m in network.modules() if isinstance(m, KernelUser)]
    if kernel.backend == "triton":
        unfit = "; ".join(sorted({problem for user in users for problem in _unfit(user)}))
        if unfit and wanted.backend == "triton":
            raise ConfigError(f'kernel.backend = "triton": {unfit}, or set kernel.backend = "eager"')
        if unfit:
            kernel = replace(kernel, backend="eager", reason=unfit)
    for user in users:
        user.kernel = kernel
    return kernel


def _unfit(user: KernelUser) -> list[str]:
    problems = []
    for name, widths in user.widths().items():
        for width in widths:
            if width % WIDTH_MULTIPLE:
                below = max(width // WIDTH_MULTIPLE, 1) * WIDTH_MULTIPLE
                near = [below] if below > width else [below, below + WIDTH_MULTIPLE]
                choice = " or ".join(map(str, near))
                problems.append(f"{name} = {width} is no multiple of {WIDTH_MULTIPLE}: choose {choice}")
    return problems


def _backend(device: torch.device, wanted: str) -> tuple[Backend, str]:
    from home_dist.experts.kernels import host

    if wanted == "eager":
        return "eager", "as configured"
    if wanted == "auto" and device.type not in ("cpu", "cuda"):
        return "eager", f"no other backend runs on {device.type}"
    if wanted == "cpu" or (wanted == "auto" and device.type == "cpu"):
        if device.type != "cpu":
            raise ConfigError(f'kernel.backend = "cpu": this run is on {device.type}. Use "auto", "triton" or "eager"')
        return "cpu", host.passes().about
    missing = _triton_missing(device)
    if missing and wanted == "triton":
        raise ConfigError(f'kernel.backend = "triton": {missing}. Use "auto", which takes what the device has')
    if missing:
        return "eager", missing
    return "triton", "device has CUDA" if device.type == "cuda" else "interpreted"


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
