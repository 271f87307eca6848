"""A pool of E experts of which each sample uses few."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from home_dist.experts import over_ranks
from home_dist.experts.bank import ExpertBank
from home_dist.experts.kernels import Operands, sparse_cpu, sparse_eager
from home_dist.experts.kernels.dropout import Dropout
from home_dist.experts.share import Share


class SparseBank(ExpertBank):
    """Experts as in ExpertBank, on one input. A sample's experts are computed once, however many tasks chose them; no pair of a
    sample and an expert is dropped.

    Normalised experts (norm=True) take the statistics of the samples that chose them, over the global batch: an expert that one
    sample chose has variance 0, so that its output is its bias, and keeps its running variance; one that none chose keeps its
    running mean, too.

    Several ranks may share a pool (share.py): each holds some experts, `forward` and `of_chosen` are then collective.
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
        share = Share.of(experts)
        super().__init__([experts], in_dim, hidden, out_dim, norm, dropout, share)
        self.share = share
        self.per_sample = min(experts, per_sample or experts)
        if self.norm is not None and not self.share.whole:
            self.norm.peers = self.share.copies

    def forward(self, inputs: Sequence[torch.Tensor], mask: torch.Tensor | None = None) -> torch.Tensor:
        """As ExpertBank's. Where ranks share the pool, for evaluation alone: running averages normalise."""
        if self.share.whole:
            return super().forward(inputs, mask)
        return over_ranks.outputs_of_all(self.share, lambda x: super(SparseBank, self).forward([x]), inputs[0])

    def of_chosen(
        self, x: torch.Tensor, chosen: torch.Tensor, gates: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Mixtures of chosen experts: sum over m of gates[k, b, m] * output of expert chosen[k, b, m] for sample b.

        x: (B, F); chosen: (K, B, M) int64; gates: (K, B, M); mask: (B,), samples that count in the statistics. Returns
        (K, B, D). Raises ValueError for shapes that do not fit, and for an expert that is not there (cpu).
        """
        self._check_choices(x, chosen, gates, mask)
        if self.share.whole:
            return self._mixed(x, chosen, gates, mask, self.per_sample)
        counted = mask if self.norm is not None and self.training else None
        return over_ranks.mixed(self.share, self._rows, x, chosen, gates, counted)

    def _check_choices(self, x: torch.Tensor, chosen: torch.Tensor, gates: torch.Tensor, mask: torch.Tensor | None) -> None:
        """Kernels read these without looking at their sizes."""
        width, samples = self.weights[0].shape[2], chosen.shape[1:2]
        masks = [] if mask is None else [mask]
        fit = chosen.dim() == 3 and chosen.dtype == torch.int64 and gates.shape == chosen.shape
        if not fit or x.shape != (*samples, width) or any(m.shape != samples for m in masks):
            given = " ".join(str(tuple(t.shape)) for t in (gates, x, *masks))
            raise ValueError(
                f"chosen experts are int64 (K, B, M), with gates (K, B, M), x (B, {width}) and mask (B,); got "
                f"{chosen.dtype} {tuple(chosen.shape)}, with {given}"
            )

    def _rows(self, x: torch.Tensor, experts: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Output of one of this rank's experts for each row. x: (P, F); experts, mask: (P,). Returns (P, D)."""
        ones = x.new_ones(1, len(x), 1)
        return self._mixed(x, experts.view(1, -1, 1), ones, mask, 1)[0]

    def _mixed(
        self, x: torch.Tensor, chosen: torch.Tensor, gates: torch.Tensor, mask: torch.Tensor | None, per_sample: int
    ) -> torch.Tensor:
        dropout = Dropout.drawn(self.dropout, x.device) if self.training else None
        arguments = (self._operands(), x, chosen, gates, mask, self.kernel.precision, dropout)
        if self.kernel.backend == "cpu":
            return sparse_cpu.mixed(*arguments)
        if self.kernel.backend == "triton":
            from home_dist.experts.kernels import sparse_triton

            return sparse_triton.mixed(*arguments, per_sample)
        return sparse_eager.mixed(*arguments)

    def _operands(self) -> Operands:
        whole = super()._operands()
        if self.share.whole:
            return whole
        weights, biases = (
            [over_ranks.averaged(p, self.share) for p in parameters] for parameters in (whole.weights, whole.biases)
        )
        norm = whole.norm
        if norm is not None:
            weight, bias = (over_ranks.averaged(p, self.share) for p in (norm.weight, norm.bias))
            norm = replace(norm, weight=weight, bias=bias)
        return Operands((self.share.count,), weights, biases, norm)
