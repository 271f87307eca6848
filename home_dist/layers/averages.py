"""Exponential moving averages of a module's parameters and running statistics (Polyak and Juditsky 1992; as used in Tan and Le,
ICML 2019): a = d a + (1 - d) p after each update, with d = min(decay, (1 + t) / (10 + t)) at update t, so that first values are
soon forgotten."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

_SEPARATOR = ":"  # a buffer's name may hold no dot


class Averages(nn.Module):
    """Averages by name. They are buffers, so that checkpoints hold them."""

    updates: torch.Tensor

    def __init__(self, module: nn.Module, decay: float, without: tuple[str, ...] = ()):
        """module: whose parameters and floating point buffers are averaged, but for those that checkpoints leave out, and those
        whose names start with one of `without`."""
        super().__init__()
        self.decay = decay
        for name, value in module.state_dict().items():
            if value.is_floating_point() and not name.startswith(without):
                self.register_buffer(name.replace(".", _SEPARATOR), value.detach().clone())
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def pairs(self, module: nn.Module) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """(average, the module's value)"""
        values = dict(module.named_parameters()) | dict(module.named_buffers())
        for name, average in self.named_buffers():
            if name != "updates":
                yield average, values[name.replace(_SEPARATOR, ".")].detach()

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Called after each update of the parameters."""
        averages, values = (list(x) for x in zip(*self.pairs(module), strict=True))
        kept = (1 + self.updates) / (10 + self.updates)
        kept = torch.where(self.updates > 0, kept.clamp(max=self.decay), 0.0)  # the first update takes the values themselves
        torch._foreach_sub_(averages, values)
        torch._foreach_mul_(averages, kept.to(averages[0].dtype))
        torch._foreach_add_(averages, values)
        self.updates += 1

    @torch.no_grad()
    def fill(self, module: nn.Module) -> None:
        """Gives the module its averages; without an update yet, changes nothing."""
        if int(self.updates):
            for average, value in self.pairs(module):
                value.copy_(average)

    @contextmanager
    def in_place(self, module: nn.Module) -> Iterator[None]:
        """The module has its averages inside the block."""
        own = [value.clone() for _, value in self.pairs(module)]
        self.fill(module)
        try:
            yield
        finally:
            with torch.no_grad():
                for value, (_, now) in zip(own, self.pairs(module), strict=True):
                    now.copy_(value)


def average_name(name: str) -> str:
    """Name, in a module's `Averages`, of the average of the tensor `name`."""
    return name.replace(".", _SEPARATOR)
