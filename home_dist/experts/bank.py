"""E experts of one shape, computed together."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from home_dist.experts.kernels import Inside, KernelUser, Norm, Operands, cpu_bank, eager
from home_dist.experts.kernels.dropout import Dropout
from home_dist.experts.kernels.mixture_tiles import Sees
from home_dist.experts.share import Share
from home_dist.layers.global_norm import GlobalBatchNorm


class ExpertBank(KernelUser):
    """Feed-forward experts with any number of hidden layers; several experts may read one input.

    Classic (norm=False): ReLU(W2 ReLU(W1 x + b1) + b2), as in MMoE and PLE. HoME (norm=True): Swish(Norm(MLP(x))), where the
    last linear layer of the MLP has no activation and no bias, and Norm is batch normalisation with a bias, per expert and
    output unit, over the global batch (Wang et al. 2024).
    """

    def __init__(
        self,
        experts: Sequence[int],
        in_dim: int,
        hidden: Sequence[int],
        out_dim: int,
        norm: bool,
        dropout: float = 0.0,
        share: Share | None = None,
        hidden_norm: bool = False,
        hidden_dropout: float = 0.0,
    ):
        """experts: number of experts that read input i. Experts are ordered by input. share: which of them this rank holds, by
        default all; first values are the same however many ranks share them. hidden_norm, hidden_dropout: hidden layers become
        dropout(ReLU(Norm(W x))), which the eager kernel computes."""
        super().__init__()
        if not experts or min(experts) < 1:
            raise ValueError(f"each input needs at least one expert, got {list(experts)}")
        self.experts, self.total = tuple(experts), sum(experts)
        held = self.total if share is None else share.count
        widths = [in_dim, *hidden, out_dim]
        if min(widths) < 1:
            raise ValueError(
                f"widths of experts must be at least 1, got input {in_dim}, hidden {list(hidden)}, output {out_dim}"
            )
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for fan_in, fan_out in zip(widths[:-1], widths[1:], strict=True):
            bound = math.sqrt(6 / fan_in)  # Kaiming, for ReLU
            self.weights.append(nn.Parameter(_drawn(self.total, share, fan_out, fan_in, bound)))
        # Normalisation would subtract a bias before it: the bias's gradient would be rounding noise, which Adam scales up to
        # full steps.
        with_bias = [*([] if hidden_norm else widths[1:-1]), *([] if norm else widths[-1:])]
        for width in with_bias:
            self.biases.append(nn.Parameter(torch.zeros(held, width)))
        self.hidden_norms = nn.ModuleList(GlobalBatchNorm((held, width)) for width in (hidden if hidden_norm else ()))
        self.hidden_dropout = hidden_dropout if hidden else 0.0
        self.norm = GlobalBatchNorm((held, out_dim)) if norm else None
        self.dropout = dropout
        self._hidden, self._out = tuple(hidden), out_dim
        self.narrowed: dict[int, str] = {}
        """By expert with fewer hidden units (`narrow`): how many, as text."""

    @torch.no_grad()
    def narrow(self, hidden: Sequence[Sequence[int]]) -> None:
        """Gives experts fewer hidden units: their other units' weights become 0. Such units stay 0 in training, as no gradient
        passes them. hidden: widths by expert; call it before training."""
        for expert, widths in enumerate(hidden):
            if tuple(widths) != self._hidden:
                self.narrowed[expert] = f" with {', '.join(map(str, widths))} hidden units"
            for layer, width in enumerate(widths):
                self.weights[layer][expert, width:] = 0
                self.weights[layer + 1][expert, :, width:] = 0

    def only_eager(self) -> str:
        settings = {"model.hidden_norm": bool(len(self.hidden_norms)), "model.hidden_dropout": self.hidden_dropout > 0}
        return " and ".join(key for key, on in settings.items() if on)

    def widths(self) -> dict[str, Sequence[int]]:
        return {"model.expert_hidden": self._hidden, "model.expert_dim": [self._out]}

    def forward(self, inputs: Sequence[torch.Tensor], mask: torch.Tensor | None = None) -> torch.Tensor:
        """All experts' outputs, computed by the eager kernel whatever the backend, to inspect experts.

        inputs: one (B, F) per entry of `experts`; mask: (B,), samples that count in the statistics. Returns (E, B, D).
        """
        out = eager.outputs(self._operands(), inputs, mask, self.kernel.precision)
        return nn.functional.dropout(out, self.dropout, self.training)

    def mixed(
        self,
        inputs: Sequence[torch.Tensor] | torch.Tensor,
        gates: torch.Tensor,
        mask: torch.Tensor | None = None,
        through: torch.Tensor | None = None,
        sees: Sees | None = None,
    ) -> torch.Tensor:
        """Mixtures of the experts' outputs: sum over e of gates[k, b, e] * output of expert e for sample b.

        inputs: one (B, F) per entry of `experts`, or all of them as one tensor; gates: (K, B, E); mask: (B,), samples that
        count in the statistics; through: (K, E) bool, mixtures whose gradients reach the expert, by default all; sees: where
        gates may differ from 0, by default everywhere: the triton backend leaves out the rest. Returns (K, B, D).
        """
        if through is not None:
            each = torch.eye(self.total, dtype=gates.dtype, device=gates.device).unsqueeze(1).expand(-1, gates.shape[1], -1)
            return eager.mixture(gates, self.mixed(inputs, each, mask), through)
        self._check(inputs, gates, mask, sees)
        operands = self._operands()
        backend, precision = self.kernel.backend if operands.inside is None else "eager", self.kernel.precision
        dropout = Dropout.drawn(self.dropout, gates.device) if self.training else None
        if backend == "cpu":
            return cpu_bank.mixed(operands, inputs, gates, mask, precision, dropout)
        inputs = list(inputs)
        if backend == "triton":
            from home_dist.experts.kernels import triton_bank

            return triton_bank.mixed(operands, inputs, gates, mask, precision, dropout, sees)
        return eager.mixed(operands, inputs, gates, mask, precision, dropout)

    def _check(
        self,
        inputs: Sequence[torch.Tensor] | torch.Tensor,
        gates: torch.Tensor,
        mask: torch.Tensor | None,
        sees: Sees | None,
    ) -> None:
        """Kernels read these without looking at their sizes."""
        samples, width = gates.shape[1:2], self.weights[0].shape[2]
        fit = gates.dim() == 3 and gates.shape[2] == self.total and len(inputs) == len(self.experts)
        # A list: a program that is exported has symbols as sizes, which a set would make numbers.
        shapes = [inputs.shape[1:]] if isinstance(inputs, torch.Tensor) else [x.shape for x in inputs]
        if not fit or any(shape != (*samples, width) for shape in shapes) or (mask is not None and mask.shape != samples):
            given = ", ".join(str(tuple(x.shape)) for x in inputs)
            raise ValueError(
                f"{len(self.experts)} inputs (B, {width}), gates (K, B, {self.total}) and mask (B,) belong together; got "
                f"inputs {given}, gates {tuple(gates.shape)}" + ("" if mask is None else f", mask {tuple(mask.shape)}")
            )
        if sees is not None and (len(sees.experts_of), sees.experts) != (len(gates), self.total):
            raise ValueError(
                f"sees is for {len(sees.experts_of)} gates over {sees.experts} experts, and gates are {tuple(gates.shape)}"
            )

    def _operands(self) -> Operands:
        norm = None if self.norm is None else Norm.of(self.norm)
        norms = [m for m in self.hidden_norms if isinstance(m, GlobalBatchNorm)]
        inside = Inside(norms, self.hidden_dropout) if norms or self.hidden_dropout else None
        return Operands(self.experts, tuple(self.weights), tuple(self.biases), norm, inside, self.training)


def _drawn(experts: int, share: Share | None, fan_out: int, fan_in: int, bound: float) -> torch.Tensor:
    """Uniform weights (E, out, in); of a share, its experts' alone, drawn expert by expert, so that no rank holds all."""
    if share is None or share.whole:
        return torch.empty(experts, fan_out, fan_in).uniform_(-bound, bound)
    kept, other = torch.empty(share.count, fan_out, fan_in), torch.empty(fan_out, fan_in)
    for expert in range(experts):
        own = 0 <= expert - share.first < share.count
        (kept[expert - share.first] if own else other).uniform_(-bound, bound)
    return kept
