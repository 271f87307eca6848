"""Cases for tests of the expert bank, and a float64 reference by the equations, expert by expert."""

from dataclasses import dataclass

import torch

from home_dist.experts import ExpertBank


@dataclass
class Case:
    experts: tuple[int, ...] = (3, 1, 2)
    hidden: tuple[int, ...] = (24,)
    norm: bool = True
    samples: int = 37
    gates: int = 5
    masked: bool = False
    in_dim: int = 20
    out_dim: int = 16

    def __str__(self) -> str:
        return "-".join(f"{k}{v}" for k, v in vars(self).items()).replace(" ", "")

    def make(self, dtype: torch.dtype, seed: int = 0) -> "Made":
        torch.manual_seed(seed)
        bank = ExpertBank(self.experts, self.in_dim, self.hidden, self.out_dim, self.norm).to(dtype)
        for parameter in bank.parameters():  # not zeros and ones, which would hide errors
            parameter.data.add_(torch.randn_like(parameter) * 0.3)
        inputs = [torch.randn(self.samples, self.in_dim, dtype=dtype, requires_grad=True) for _ in self.experts]
        gates = torch.randn(self.gates, self.samples, bank.total, dtype=dtype).softmax(-1).requires_grad_()
        mask = None
        if self.masked:
            mask = (torch.rand(self.samples) > 0.3).to(dtype)
            mask[0], mask[-1] = 1, 0
        pull = torch.randn(self.gates, self.samples, self.out_dim, dtype=dtype)
        return Made(bank, inputs, gates, mask, pull)


@dataclass
class Made:
    bank: ExpertBank
    inputs: list[torch.Tensor]
    gates: torch.Tensor
    mask: torch.Tensor | None
    pull: torch.Tensor

    def to(self, device: torch.device | torch.dtype) -> "Made":
        inputs = [x.detach().to(device).requires_grad_() for x in self.inputs]
        gates = self.gates.detach().to(device).requires_grad_()
        mask = None if self.mask is None else self.mask.to(device)
        return Made(self.bank.to(device), inputs, gates, mask, self.pull.to(device))

    def leaves(self) -> dict[str, torch.Tensor]:
        inputs = {f"input {i}": x for i, x in enumerate(self.inputs)}
        return {**inputs, "gates": self.gates, **dict(self.bank.named_parameters())}

    def results(self, out: torch.Tensor) -> dict[str, torch.Tensor]:
        """The output and all gradients, by name."""
        leaves = self.leaves()
        grads = torch.autograd.grad((out * self.pull).sum(), list(leaves.values()))
        return {"output": out.detach(), **dict(zip(leaves, grads, strict=True))}


CASES = [
    Case(),
    Case(masked=True),
    Case(norm=False),
    Case(hidden=()),
    Case(hidden=(), norm=False, masked=True),
    Case(hidden=(8, 24), masked=True),
    Case(hidden=(8, 24), norm=False),
    Case(experts=(1,), gates=1),
    Case(experts=(1,), gates=1, samples=1),
    Case(samples=1, norm=False),
    Case(samples=201, masked=True, gates=6, experts=(2, 2)),  # several blocks of samples, the last one cut
    Case(in_dim=7, hidden=(9,), out_dim=5, samples=33),
    Case(in_dim=7, hidden=(9,), out_dim=33, gates=4, norm=False),
]


def as_bf16(x: torch.Tensor) -> torch.Tensor:
    """Rounded to bf16; the gradient passes as it is."""
    return x + (x.detach().bfloat16().to(x.dtype) - x.detach())


def reference(made: Made, factors: torch.Tensor | None = None, bf16: bool = False) -> torch.Tensor:
    """factors: of the experts' outputs, (E, B, D); bf16: operands of products and what the last layer gives are rounded to it.
    Returns (K, B, D)."""
    bank, states = made.bank, []
    operand = as_bf16 if bf16 else lambda x: x
    owner = [i for i, count in enumerate(bank.experts) for _ in range(count)]
    for e, i in enumerate(owner):
        x, last = made.inputs[i], len(bank.weights) - 1
        for d in range(last + 1):
            x = operand(x) @ operand(bank.weights[d][e]).T
            if d < len(bank.biases):
                x = x + bank.biases[d][e]
            if d < last or bank.norm is None:
                x = torch.where(x > 0, x, 0.0)
        if bank.norm is not None:
            x = operand(x)
            real = x if made.mask is None else x[made.mask > 0]
            if bank.training:
                mean, variance = real.mean(0), real.var(0, correction=0)
            else:
                mean, variance = bank.norm.running_mean[e], bank.norm.running_var[e]
            x = (x - mean) / torch.sqrt(variance + 1e-5) * bank.norm.weight[e] + bank.norm.bias[e]
            x = x / (1 + torch.exp(-x))
        states.append(x)
    total = 0.0
    for e, state in enumerate(states):
        kept = state if factors is None else factors[e] * state
        total = total + made.gates[:, :, e].unsqueeze(-1) * kept
    return total


def compare(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], tolerance: float) -> None:
    """Compares each tensor to `tolerance` times its largest value plus 1e-3, for tensors that are rounding noise."""
    for name, expected in theirs.items():
        scale = expected.abs().max().item() + 1e-3
        actual = ours[name].to(expected.dtype)
        torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * scale, msg=lambda m, n=name: f"{n}: {m}")


def distances(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> dict[str, float]:
    """Per tensor, the norm of the difference divided by the norm: for low precision, in which single ReLUs may differ."""
    return {name: float((ours[name] - expected).norm() / (expected.norm() + 1e-3)) for name, expected in theirs.items()}
