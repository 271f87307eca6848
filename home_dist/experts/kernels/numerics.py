"""Settings of [kernel] for GPUs alone: how torch's own operators round, and whether each run gives the same bits."""

import os

import torch

from home_dist.config import KernelSection
from home_dist.errors import ConfigError

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_ONLY_GPUS = {
    "cuda_graphs": "has no CUDA graphs",
    "tf32": "has no TF32",
    "deterministic": "gives the same bits in each run in any case",
}
"""By key: why another device has no use for it."""


def set_numerics(wanted: KernelSection, device: torch.device) -> None:
    """Sets torch for this process. Raises ConfigError for a setting that has no effect on the device.

    Before the process's first matrix product on a GPU: cuBLAS reads its workspace's size once.
    """
    if device.type != "cuda":
        for key, why in _ONLY_GPUS.items():
            if getattr(wanted, key):
                raise ConfigError(f"kernel.{key} = true: this run is on {device.type}, which {why}. Leave it out")
        return
    if wanted.tf32 and torch.cuda.get_device_capability(device) < (8, 0):
        raise ConfigError("kernel.tf32 = true: this GPU has no TF32, which compute capability 8.0 brought. Leave it out")
    precision = "tf32" if wanted.tf32 else "ieee"
    torch.backends.cuda.matmul.fp32_precision = precision
    torch.backends.cudnn.rnn.fp32_precision = precision  # type: ignore[attr-defined]
    if wanted.deterministic:
        os.environ.setdefault(_WORKSPACE, ":4096:8")
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # which nothing here reads
    torch.use_deterministic_algorithms(wanted.deterministic)
