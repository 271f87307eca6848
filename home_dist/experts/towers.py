"""Towers: one small head per task; those of one shape are computed together."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn


class TowerBank(nn.Module):
    """n perceptrons of one shape, with ReLU between layers."""

    def __init__(self, tasks: int, in_dim: int, hidden: Sequence[int], outputs: int = 1, start: torch.Tensor | None = None):
        """start: (n, outputs) initial biases of the outputs; by default 0."""
        super().__init__()
        widths = [in_dim, *hidden, outputs]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for depth, (fan_in, fan_out) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            bound = math.sqrt(6 / fan_in) if depth < len(hidden) else 1 / math.sqrt(fan_in)
            self.weights.append(nn.Parameter(torch.empty(tasks, fan_in, fan_out).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.zeros(tasks, fan_out)))
        if start is not None:
            with torch.no_grad():
                self.biases[-1].copy_(start)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (n, B, D). Returns (n, B, outputs)."""
        last = len(self.weights) - 1
        for depth, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias.unsqueeze(1), x, weight)
            if depth < last:
                x = torch.relu(x)
        return x


class Towers(TowerBank):
    """The towers of all tasks. Those of the most common shape, hidden widths `hidden` and one output, are its own parameters;
    others are in `others`, a bank per shape."""

    order: torch.Tensor | None

    def __init__(
        self,
        in_dim: int,
        hidden: Sequence[int],
        starts: Sequence[torch.Tensor],
        apart: Mapping[int, Sequence[int]] | None = None,
    ):
        """starts: by task, the initial biases of its outputs (outputs,). apart: hidden widths of some tasks, by number."""
        shapes: dict[tuple[tuple[int, ...], int], list[int]] = {(tuple(hidden), 1): []}
        for task, start in enumerate(starts):
            shapes.setdefault((tuple((apart or {}).get(task, hidden)), len(start)), []).append(task)
        own = shapes.pop((tuple(hidden), 1))
        super().__init__(len(own), in_dim, hidden, 1, torch.stack([starts[k] for k in own]) if own else None)
        if not own:
            self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        self.tasks = {"": own}
        """By name in `others`, and by "" for its own parameters: the tasks of a bank."""
        self.others = nn.ModuleDict()
        for (widths, outputs), members in shapes.items():
            name = "_".join(["hidden", *map(str, widths), "outputs", str(outputs)])
            self.others[name] = TowerBank(len(members), in_dim, widths, outputs, torch.stack([starts[k] for k in members]))
            self.tasks[name] = members
        for n, members in enumerate(self.tasks.values()):
            self.register_buffer(f"members_{n}", torch.tensor(members, dtype=torch.int64), persistent=False)
        columns = [(k, o) for members in self.tasks.values() for k in members for o in range(len(starts[k]))]
        in_order = sorted(range(len(columns)), key=columns.__getitem__)
        moved = in_order != list(range(len(columns)))
        self.register_buffer("order", torch.tensor(in_order) if moved else None, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (K, B, D). Returns logits (B, O), the tasks' outputs one after another."""
        if not self.others:
            return super().forward(x).squeeze(-1).t()
        states = [x.index_select(0, getattr(self, f"members_{n}")) for n in range(len(self.tasks))]
        parts = [super().forward(states[0])] if self.tasks[""] else []
        parts += [bank(of_bank) for bank, of_bank in zip(self.others.values(), states[1:], strict=True)]
        logits = torch.cat([part.transpose(0, 1).flatten(1) for part in parts], 1)
        return logits if self.order is None else logits.index_select(1, self.order)
