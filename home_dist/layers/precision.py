"""Products of matrices in bf16."""

from contextlib import AbstractContextManager, nullcontext

import torch


def products_in_bf16(on: bool, device: torch.device) -> AbstractContextManager[object]:
    """Autocast for matrix products of encoders and towers. The experts' precision is set apart, with their kernel. Sums,
    statistics and losses are always fp32."""
    if torch.compiler.is_exporting() and not on:
        return nullcontext()  # a program with loops cannot hold regions of autocast
    return torch.autocast(device.type, torch.bfloat16, enabled=on)
