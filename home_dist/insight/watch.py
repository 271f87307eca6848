"""A model's forward pass as an onlooker sees it: what experts put out, what gates weigh, what feature gates scale."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from home_dist.experts import mixture
from home_dist.experts.kernels import EAGER
from home_dist.experts.kernels.choice import KernelUser
from home_dist.models.anatomy import Anatomy, Part


@dataclass
class Passed:
    """By the number of the part, of one forward pass. With gradients where the pass has them."""

    outputs: dict[int, torch.Tensor] = field(default_factory=dict)
    """The experts' outputs, (E, B, D)."""
    weights: dict[int, torch.Tensor] = field(default_factory=dict)
    """What the experts are weighed with: all paths together, (K, B, E)."""
    masked: dict[int, torch.Tensor] = field(default_factory=dict)
    """Of that, what the masked gates give, (K, B, E)."""
    self_gates: dict[int, torch.Tensor] = field(default_factory=dict)
    scales: dict[int, torch.Tensor] = field(default_factory=dict)
    """Factors of a feature gate, (G, B, F)."""
    scalers: dict[str, torch.Tensor] = field(default_factory=dict)
    """Factors of the feature vector by other modules, (B, F), by name."""


@contextmanager
def watched(model: nn.Module, anatomy: Anatomy) -> Iterator[Passed]:
    """Within it, passes through the model are in evaluation mode and leave no trace: no dropout, so that no random number is
    drawn, and normalisation by running averages, which stay as they are, so that ranks exchange nothing. Kernels are the eager
    ones, whose graph can be walked back more than once."""
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
        inputs: Sequence[torch.Tensor], gates: torch.Tensor, mask: torch.Tensor | None = None, *_: Any, **__: Any
    ) -> torch.Tensor:
        seen.weights[n] = gates
        return mixture(gates, forward(inputs, mask))

    return [("forward", forward), ("mixed", mixed)]


def _scaling(seen: Passed, n: int, gate: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(x: torch.Tensor) -> torch.Tensor:
        seen.scales[n] = gate.scale(x)
        return x * seen.scales[n]

    return forward


@contextmanager
def _replaced(module: nn.Module, name: str, value: Any) -> Iterator[None]:
    """Puts an attribute before the module's own for a while."""
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
