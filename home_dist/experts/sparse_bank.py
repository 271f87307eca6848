"""A pool of E experts of which each sample uses few."""

from collections.abc import Sequence

import torch

from home_dist.experts.bank import ExpertBank
from home_dist.experts.kernels import sparse_cpu, sparse_eager
from home_dist.experts.kernels.dropout import Dropout


class SparseBank(ExpertBank):
    """Experts as in ExpertBank, on one input. A sample's experts are computed once, however many tasks chose them; no pair of a
    sample and an expert is dropped.

    Normalised experts (norm=True) take the statistics of the samples that chose them, over the global batch: an expert that one
    sample chose has variance 0, so that its output is its bias, and keeps its running variance; one that none chose keeps its
    running mean, too.
    """

    def __init__(
        self,
        experts: int,
        in_dim: int,
        hidden: Sequence[int],
        out_dim: int,
        norm: bool,
        dropout: float = 0.0,
        per_sample: int | None = None,
    ):
        """per_sample: distinct experts that a sample chooses at most, by default all. Memory on a GPU is by this number."""
        super().__init__([experts], in_dim, hidden, out_dim, norm, dropout)
        self.per_sample = min(experts, per_sample or experts)

    def of_chosen(
        self, x: torch.Tensor, chosen: torch.Tensor, gates: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Mixtures of chosen experts: sum over m of gates[k, b, m] * output of expert chosen[k, b, m] for sample b.

        x: (B, F); chosen: (K, B, M) int64; gates: (K, B, M); mask: (B,), samples that count in the statistics. Returns
        (K, B, D). Raises ValueError for shapes that do not fit, and for an expert that is not there (cpu).
        """
        shapes = chosen.shape, gates.shape, x.shape[-1:], x.shape[:1], None if mask is None else mask.shape
        expected = (
            gates.shape,
            chosen.shape,
            self.weights[0].shape[2:],
            chosen.shape[1:2],
            mask if mask is None else x.shape[:1],
        )
        if chosen.dim() != 3 or chosen.dtype != torch.int64 or shapes != expected:
            raise ValueError(
                f"chosen experts are int64 (K, B, M), gates (K, B, M), x (B, {self.weights[0].shape[2]}), mask (B,); got chosen "
                f"{chosen.dtype} {tuple(chosen.shape)}, gates {tuple(gates.shape)}, x {tuple(x.shape)}"
                + ("" if mask is None else f", mask {tuple(mask.shape)}")
            )
        dropout = Dropout.drawn(self.dropout) if self.training else None
        arguments = (self._operands(), x, chosen, gates, mask, self.kernel.precision, dropout)
        if self.kernel.backend == "cpu":
            return sparse_cpu.mixed(*arguments)
        if self.kernel.backend == "triton":
            from home_dist.experts.kernels import sparse_triton

            return sparse_triton.mixed(*arguments, self.per_sample)
        return sparse_eager.mixed(*arguments)
