"""Gates over experts under a mask."""

import math

import torch
from torch import nn

from home_dist.experts.kernels import KernelUser
from home_dist.experts.kernels.cpu_gate_weights import ScoreLayout, gate_weights


class _Scores(nn.Module):
    """K linear maps to E scores each, on one common input or on one input per gate."""

    mask: torch.Tensor

    def __init__(self, in_dim: int, mask: torch.Tensor):
        super().__init__()
        if mask.dtype != torch.bool or mask.dim() != 2:
            raise ValueError(f"a gate mask is a boolean (K, E) tensor, got {mask.dtype} {tuple(mask.shape)}")
        blind = (~mask.any(1)).nonzero().flatten().tolist()
        if blind:
            raise ValueError(f"gates {blind} may see no expert; let each gate see at least one")
        self.register_buffer("mask", mask, persistent=False)
        gates, experts = mask.shape
        bound = 1 / math.sqrt(in_dim)
        self.weight = nn.Parameter(torch.empty(gates, experts, in_dim).uniform_(-bound, bound))

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """x: (B, F), one input for all gates, or (K, B, F). Returns (K, B, E)."""
        if x.dim() == 2:
            wide = nn.functional.linear(x, self.weight.flatten(0, 1))
            return wide.view(x.shape[0], *self.mask.shape).transpose(0, 1)
        return torch.bmm(x, self.weight.transpose(1, 2))


def first_largest(x: torch.Tensor, count: int) -> torch.Tensor:
    """x: (..., E). Returns (..., count): where its largest values stand, by falling value; of equal ones the first. torch.topk
    takes any of equal values."""
    places = []
    for _ in range(count):
        places.append(x.argmax(-1, keepdim=True))
        x = x.scatter(-1, places[-1], -torch.inf)
    return torch.cat(places, -1) if places else x.new_zeros((*x.shape[:-1], 0), dtype=torch.int64)


class MaskedGates(_Scores, KernelUser):
    """softmax(W_k x) over the experts that gate k may see; all others get exactly 0 and no gradient."""

    _layout: tuple[torch.Tensor, torch.Tensor | None, ScoreLayout] | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (B, F) or (K, B, F). Returns weights (K, B, E)."""
        if self.kernel.backend == "cpu":
            return self._fused(x, None)
        return self.scores(x).masked_fill(~self.mask.unsqueeze(1), -torch.inf).softmax(-1)

    def joined(self, own: "SelfGates | None", x: torch.Tensor) -> torch.Tensor:
        """Weights (K, B, E) of these gates plus those of the self gates `own`, if given."""
        if self.kernel.backend == "cpu":
            return self._fused(x, own)
        return self(x) if own is None else self(x) + own(x)

    def _fused(self, x: torch.Tensor, own: "SelfGates | None") -> torch.Tensor:
        masks = (self.mask, None if own is None else own.mask)
        if self._layout is None or self._layout[0] is not masks[0] or self._layout[1] is not masks[1]:
            self._layout = (*masks, ScoreLayout.of(*masks))
        return gate_weights(x, self.weight, None if own is None else own.weight, self._layout[2])


class SelfGates(_Scores):
    """HoME's residual path from a group's own experts: softmax(W x) over them, or sigmoid(W x) if the group has one expert.

    The paper does not give the depth of MLP_G; here it is one linear layer, as for the main gates.
    """

    lone: torch.Tensor

    def __init__(self, in_dim: int, mask: torch.Tensor):
        super().__init__(in_dim, mask)
        self.register_buffer("lone", mask.sum(1) == 1, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (B, F) or (K, B, F). Returns weights (K, B, E)."""
        scores = self.scores(x)
        several = scores.masked_fill(~self.mask.unsqueeze(1), -torch.inf).softmax(-1)
        single = torch.sigmoid(scores) * self.mask.unsqueeze(1)
        return torch.where(self.lone[:, None, None], single, several)
