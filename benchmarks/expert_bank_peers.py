"""What the expert bank is measured against: experts as modules in a Python loop, as multi-task libraries write them."""

from collections.abc import Callable

import torch
from torch import nn

from home_dist.experts import ExpertBank
from home_dist.models import TaskGroups
from home_dist.models.home import Home, HomeSection


def expert(in_dim: int, hidden: int, out_dim: int) -> nn.Sequential:
    """HoME's: Swish(Norm(MLP(x))). No bias before the normalisation, as in the bank."""
    layers = nn.Linear(in_dim, hidden), nn.ReLU(), nn.Linear(hidden, out_dim, bias=False)
    return nn.Sequential(*layers, nn.BatchNorm1d(out_dim), nn.SiLU())


class Loop(nn.Module):
    """One module per expert, then stack and einsum."""

    def __init__(self, bank: ExpertBank):
        """Takes over the weights of a bank with one hidden layer, all of whose experts read one input."""
        super().__init__()
        hidden, in_dim = bank.weights[0].shape[1:]
        self.experts = nn.ModuleList(expert(in_dim, hidden, bank.weights[1].shape[1]) for _ in range(bank.total))
        for e, module in enumerate(self.experts):
            copy_expert(bank, e, module)

    def forward(self, x: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
        """x: (B, F); gates: (K, B, E). Returns (K, B, D)."""
        states = torch.stack([e(x) for e in self.experts], 1)  # (B, E, D)
        return torch.einsum("kbe,bed->kbd", gates, states)


@torch.no_grad()
def copy_expert(bank: ExpertBank, e: int, module: nn.Sequential) -> None:
    module[0].weight.copy_(bank.weights[0][e])
    module[0].bias.copy_(bank.biases[0][e])
    module[2].weight.copy_(bank.weights[1][e])
    module[3].weight.copy_(bank.norm.weight[e])
    module[3].bias.copy_(bank.norm.bias[e])


def floor(bank: ExpertBank, samples: int) -> Callable[[], None]:
    """Just the matrix products of a step, six per expert, one after another, into memory that is there already."""
    first, second = bank.weights[0].detach(), bank.weights[1].detach()
    x = torch.randn(samples, first.shape[2])
    h, y = torch.randn(samples, first.shape[1]), torch.randn(samples, second.shape[1])
    to_h, to_y, to_x = torch.empty_like(h), torch.empty_like(y), torch.empty_like(x)
    to_first, to_second = torch.empty_like(first[0]), torch.empty_like(second[0])

    def run() -> None:
        for one, two in zip(first, second, strict=True):
            torch.mm(x, one.t(), out=to_h)
            torch.mm(h, two.t(), out=to_y)
            torch.mm(y.t(), h, out=to_second)
            torch.mm(y, two, out=to_h)
            torch.mm(h.t(), x, out=to_first)
            torch.mm(h, one, out=to_x)

    return run


class _LoRA(nn.Module):
    def __init__(self, in_dim: int, rank: int):
        super().__init__()
        self.down, self.up = nn.Linear(in_dim, rank, bias=False), nn.Linear(rank, in_dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * torch.sigmoid(self.up(self.down(x)))


class _FeatureGate(nn.Module):
    def __init__(self, in_dim: int, gates: int, rank: int):
        super().__init__()
        self.loras = nn.ModuleList(_LoRA(in_dim, rank) for _ in range(gates))
        self.choice = nn.Linear(in_dim, gates, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        share = torch.softmax(self.choice(x), -1).unsqueeze(1)  # (B, 1, L)
        scales = torch.stack([lora(x) for lora in self.loras], 2)  # (B, F, L)
        return x * (share * scales).sum(2)


class _Gate(nn.Module):
    """A mixture of the experts that a gate sees; only those are stacked, so that no mask is needed."""

    def __init__(self, in_dim: int, seen: list[int]):
        super().__init__()
        self.seen = seen
        self.linear = nn.Linear(in_dim, len(seen), bias=False)

    def forward(self, x: torch.Tensor, experts: list[torch.Tensor], sigmoid: bool = False) -> torch.Tensor:
        scores = self.linear(x)
        weights = torch.sigmoid(scores) if sigmoid else torch.softmax(scores, -1)
        return (torch.stack([experts[e] for e in self.seen], 1) * weights.unsqueeze(-1)).sum(1)


class _Layer(nn.Module):
    """A layer of HoME as lists of modules, with the weights of the original."""

    def __init__(self, original: nn.Module):
        super().__init__()
        bank, gate = original.bank, original.feature_gate
        hidden, in_dim = bank.weights[0].shape[1:]
        out_dim = bank.weights[1].shape[1]
        self.owner = [g for g, count in enumerate(bank.experts) for _ in range(count)]
        self.experts = nn.ModuleList(expert(in_dim, hidden, out_dim) for _ in range(bank.total))
        for e, module in enumerate(self.experts):
            copy_expert(bank, e, module)
        self.feature_gates = nn.ModuleList(_FeatureGate(in_dim, gate.gates, gate.rank) for _ in range(gate.groups))
        self.gates = nn.ModuleList(self._of(original.gates))
        self.self_gates = nn.ModuleList(self._of(original.self_gates))
        with torch.no_grad():
            for g, module in enumerate(self.feature_gates):
                module.choice.weight.copy_(gate.choice[g])
                for n, lora in enumerate(module.loras):
                    lora.down.weight.copy_(gate.down[g, n * gate.rank : (n + 1) * gate.rank])
                    lora.up.weight.copy_(gate.up[g * gate.gates + n].t())

    @staticmethod
    @torch.no_grad()
    def _of(scores: nn.Module) -> list[_Gate]:
        gates = []
        for k, row in enumerate(scores.mask):
            seen = row.nonzero().flatten().tolist()
            gates.append(_Gate(scores.weight.shape[2], seen))
            gates[-1].linear.weight.copy_(scores.weight[k, seen])
        return gates

    def forward(self, inputs: list[torch.Tensor], gate_inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        gated = [gate(x) for gate, x in zip(self.feature_gates, inputs, strict=True)]
        experts = [e(gated[g]) for e, g in zip(self.experts, self.owner, strict=True)]
        states = []
        for gate, own, x in zip(self.gates, self.self_gates, gate_inputs, strict=True):
            states.append(gate(x, experts) + own(x, experts, sigmoid=len(own.seen) == 1))
        return states


class HomeOfModules(nn.Module):
    """HoME as module lists, with the weights of the original."""

    def __init__(self, original: Home, tasks: TaskGroups):
        super().__init__()
        self.group_of = tasks.group_of
        self.meta, self.task = _Layer(original.meta), _Layer(original.task)

    def forward(self, v: torch.Tensor) -> torch.Tensor:
        """v: (B, F). Returns (K, B, D)."""
        *groups, shared = self.meta([v] * len(self.meta.feature_gates), [v] * len(self.meta.gates))
        of_task = [groups[c] for c in self.group_of]
        both = [torch.cat([z, shared], 1) for z in of_task]
        return torch.stack(self.task([shared, *groups, *of_task], both))


def home(group_experts: int, in_dim: int, hidden: int, out_dim: int, tasks: TaskGroups) -> Home:
    config = HomeSection(shared_experts=group_experts, group_experts=group_experts, expert_hidden=(hidden,), expert_dim=out_dim)
    return Home(config, in_dim, tasks)
