"""Cases for tests of the bank of chosen experts, and a float64 reference, pair by pair."""

from dataclasses import dataclass

import torch

from home_dist.experts.sparse_bank import SparseBank
from tests.experts.cases import as_bf16


@dataclass
class SparseCase:
    experts: int = 6
    slots: int = 3
    hidden: tuple[int, ...] = (24,)
    norm: bool = True
    samples: int = 37
    gates: int = 4
    masked: bool = False
    in_dim: int = 20
    out_dim: int = 16
    favourite: bool = False
    """Whether most choices fall on few experts."""

    def __str__(self) -> str:
        return "-".join(f"{k}{v}" for k, v in vars(self).items()).replace(" ", "")

    def make(self, dtype: torch.dtype, seed: int = 0) -> "SparseMade":
        torch.manual_seed(seed)
        bank = SparseBank(self.experts, self.in_dim, self.hidden, self.out_dim, self.norm).to(dtype)
        for parameter in bank.parameters():  # not zeros and ones, which would hide errors
            parameter.data.add_(torch.randn_like(parameter) * 0.3)
        x = torch.randn(self.samples, self.in_dim, dtype=dtype, requires_grad=True)
        liking = torch.rand(self.gates, self.samples, self.experts)
        if self.favourite:
            liking[..., : self.slots] += 1
            liking[0, 3] = torch.rand(self.experts)
        chosen = liking.topk(self.slots, -1).indices
        gates = torch.randn(chosen.shape, dtype=dtype).softmax(-1).requires_grad_()
        mask = None
        if self.masked:
            mask = (torch.rand(self.samples) > 0.3).to(dtype)
            mask[0], mask[-1] = 1, 0
        return SparseMade(bank, x, chosen, gates, mask, torch.randn(self.gates, self.samples, self.out_dim, dtype=dtype))


@dataclass
class SparseMade:
    bank: SparseBank
    x: torch.Tensor
    chosen: torch.Tensor
    gates: torch.Tensor
    mask: torch.Tensor | None
    pull: torch.Tensor

    def to(self, dtype: torch.dtype) -> "SparseMade":
        x, gates = (t.detach().to(dtype).requires_grad_() for t in (self.x, self.gates))
        mask = None if self.mask is None else self.mask.to(dtype)
        return SparseMade(self.bank.to(dtype), x, self.chosen, gates, mask, self.pull.to(dtype))

    def results(self, out: torch.Tensor) -> dict[str, torch.Tensor]:
        """The output and all gradients, by name."""
        leaves = {"x": self.x, "gates": self.gates, **dict(self.bank.named_parameters())}
        grads = torch.autograd.grad((out * self.pull).sum(), list(leaves.values()), materialize_grads=True)
        return {"output": out.detach(), **dict(zip(leaves, grads, strict=True))}


SPARSE_CASES = [
    SparseCase(),
    SparseCase(masked=True),
    SparseCase(norm=False),
    SparseCase(hidden=()),
    SparseCase(hidden=(), norm=False, masked=True),
    SparseCase(hidden=(8, 24), masked=True, favourite=True),
    SparseCase(hidden=(8, 24), norm=False, favourite=True, slots=1),
    SparseCase(experts=1, slots=1, gates=1, norm=False),
    SparseCase(experts=5, slots=5),  # all experts: the dense bank
    SparseCase(experts=40, slots=2, samples=5),  # many that nobody chooses
    SparseCase(samples=1, norm=False),
    SparseCase(
        samples=1100, masked=True, experts=3, slots=1, gates=2, favourite=True
    ),  # more than a piece of an expert's pairs
    SparseCase(in_dim=7, hidden=(9,), out_dim=5, samples=33),
]


def sparse_reference(made: SparseMade, factors: torch.Tensor | None = None, bf16: bool = False) -> torch.Tensor:
    """factors: of the experts' outputs, (E, B, D); bf16: operands of products and what the last layer gives are rounded to it.
    Returns (K, B, D)."""
    operand = as_bf16 if bf16 else lambda x: x
    bank, gates, chosen = made.bank, made.gates, made.chosen.tolist()
    count, samples, slots = gates.shape
    states: dict[tuple[int, int], torch.Tensor] = {}
    for e in range(bank.total):
        users = [b for b in range(samples) if any(e in chosen[k][b] for k in range(count))]
        rows = []
        for b in users:
            x, last = made.x[b], len(bank.weights) - 1
            for d in range(last + 1):
                x = operand(bank.weights[d][e]) @ operand(x)
                if d < len(bank.biases):
                    x = x + bank.biases[d][e]
                if d < last or bank.norm is None:
                    x = torch.where(x > 0, x, 0.0)
            rows.append(x if bank.norm is None else operand(x))
        if bank.norm is not None and rows:
            mean, variance = bank.norm.running_mean[e], bank.norm.running_var[e]
            if bank.training:
                real = [x for b, x in zip(users, rows, strict=True) if made.mask is None or made.mask[b] > 0]
                stacked = torch.stack(real) if real else torch.zeros_like(mean).unsqueeze(0)
                mean, variance = stacked.mean(0), stacked.var(0, correction=0)
            normed = [(x - mean) / torch.sqrt(variance + 1e-5) * bank.norm.weight[e] + bank.norm.bias[e] for x in rows]
            rows = [x / (1 + torch.exp(-x)) for x in normed]
        states |= {(b, e): x if factors is None else factors[e, b] * x for b, x in zip(users, rows, strict=True)}
    out = []
    for k in range(count):
        mixed = [sum(gates[k, b, m] * states[b, chosen[k][b][m]] for m in range(slots)) for b in range(samples)]
        out.append(torch.stack(mixed))
    return torch.stack(out)
