"""Dropout of the experts' inputs."""

import torch
from torch import nn

from home_dist.experts.kernels import KernelUser
from home_dist.experts.kernels.dropout import Dropout, dropped_on_cpu


class InputDropout(KernelUser):
    """x (B, F) -> (B, F). The cpu backend makes one pass and keeps no mask; other backends use torch's dropout."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dropout = Dropout.drawn(self.rate, x.device) if self.training and self.kernel.backend == "cpu" else None
        if dropout is None:
            return nn.functional.dropout(x, self.rate, self.training)
        return dropped_on_cpu(x, dropout)
