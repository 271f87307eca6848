"""Records a forward pass: experts' outputs, gates' weights, feature gates' factors."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from home_dist.experts import mixture
from home_dist.experts.kernels import EAGER
from home_dist.experts.kernels.choice import KernelUser
from home_dist.experts.kernels.sparse_eager import dense
from home_dist.models.anatomy import Anatomy, Part


@dataclass
class Passed:
    """Tensors of one forward pass, by the part's number. They carry gradients if the pass does."""

    outputs: dict[int, torch.Tensor] = field(default_factory=dict)
    """The experts' outputs, (E, B, D)."""
    weights: dict[int, torch.Tensor] = field(default_factory=dict)
    """The experts' weights, summed over all paths, (K, B, E)."""
    chosen: dict[int, torch.Tensor] = field(default_factory=dict)
    """Of banks whose gates choose experts: which, (K, B, M)."""
    masked: dict[int, torch.Tensor] = field(default_factory=dict)
    """The masked gates' weights alone, (K, B, E)."""
    self_gates: dict[int, torch.Tensor] = field(default_factory=dict)
    scales: dict[int, torch.Tensor] = field(default_factory=dict)
    """Factors of a feature gate, (G, B, F)."""
    scalers: dict[str, torch.Tensor] = field(default_factory=dict)
    """Other modules' factors of the feature vector, (B, F), by module name."""


@contextmanager
def watched(model: nn.Module, anatomy: Anatomy) -> Iterator[Passed]:
    """Records passes through the model, without side effects: evaluation mode draws no random numbers for dropout, and
    normalises by running averages, which stay unchanged, so that ranks exchange nothing, but where they share a pool. Experts
    use the eager kernel, whose graph allows more than one backward."""
    seen, training = Passed(), {m: m.training for m in model.modules()}
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, KernelUser):
                stack.enter_context(_replaced(module, "kernel", EAGER))
        for n, part in enumerate(anatomy.parts):
            for name, stand_in in _stand_ins(seen, n, part):
                stack.enter_context(_replaced(part.bank, name, stand_in))
            for gates, kept in ((part.masked, seen.masked), (part.self_gates, seen.self_gates)):
                if gates is not None:
                    hook = gates.register_forward_hook(lambda _, __, out, n=n, kept=kept: kept.__setitem__(n, out))
                    stack.callback(hook.remove)
            if part.feature_gate is not None:
                stack.enter_context(_replaced(part.feature_gate, "forward", _scaling(seen, n, part.feature_gate)))
        for name, scaler in anatomy.scalers:
            hook = scaler.register_forward_hook(lambda _, __, out, name=name: seen.scalers.__setitem__(name, out))
            stack.callback(hook.remove)
        model.eval()
        try:
            yield seen
        finally:
            for module, mode in training.items():
                module.training = mode


def _stand_ins(seen: Passed, n: int, part: Part) -> list[tuple[str, Callable[..., torch.Tensor]]]:
    plain = part.bank.forward

    def forward(inputs: Sequence[torch.Tensor], mask: torch.Tensor | None = None) -> torch.Tensor:
        seen.outputs[n] = plain(inputs, mask)
        return seen.outputs[n]

    def mixed(
        inputs: Sequence[torch.Tensor],
        gates: torch.Tensor,
        mask: torch.Tensor | None = None,
        through: torch.Tensor | None = None,
        sees: Any = None,
    ) -> torch.Tensor:
        seen.weights[n] = gates
        return mixture(gates, forward(inputs, mask), through)

    def of_chosen(x: torch.Tensor, chosen: torch.Tensor, gates: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        seen.chosen[n] = chosen
        return mixed([x], dense(gates, chosen, part.bank.total), mask)

    return [("forward", forward), ("mixed", mixed), ("of_chosen", of_chosen)]


def _scaling(seen: Passed, n: int, gate: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(x: torch.Tensor) -> torch.Tensor:
        seen.scales[n] = gate.scale(x)
        return x * seen.scales[n]

    return forward


@contextmanager
def _replaced(module: nn.Module, name: str, value: Any) -> Iterator[None]:
    """Hides a module's attribute behind `value` until the context ends."""
    missing = object()
    before = module.__dict__.get(name, missing)
    module.__dict__[name] = value
    try:
        yield
    finally:
        if before is missing:
            del module.__dict__[name]
        else:
            module.__dict__[name] = before
