"""What every multi-task model is to the network."""

from collections.abc import Sequence

import torch
from torch import nn

from home_dist.experts import ExpertBank
from home_dist.model_section import ModelOfBanks


class MultiTaskModel(nn.Module):
    """Feature vector -> one state per task, of which the towers make logits."""

    out_dim: int
    """D, the width of a task's state."""

    def forward(self, v: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """v: (B, F); mask: (B,), real samples, by default all. Returns (K, B, D)."""
        raise NotImplementedError

    def auxiliary(self) -> dict[str, torch.Tensor]:
        """Losses of the model's own, (), by name, to be added to those of the tasks."""
        return {}


def bank_of(config: ModelOfBanks, experts: Sequence[int], in_dim: int) -> ExpertBank:
    """A bank of experts as `[model]` describes them; experts: how many read input i."""
    return ExpertBank(experts, in_dim, config.expert_hidden, config.expert_dim, config.expert_norm, config.dropout)
