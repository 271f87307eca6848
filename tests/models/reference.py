"""What the models' references share: one sample, one expert, one gate at a time, in float64, from the papers' equations."""

import itertools
from collections.abc import Callable, Iterable, Sequence

import torch

from home_dist.config import KernelSection
from home_dist.config.model import MODELS
from home_dist.experts.kernels import select
from home_dist.models import MultiTaskModel, TaskGroups, build_model

F, B, D = 6, 5, 4
GROUPINGS = [(0,), (0, 1), (0, 0, 0, 1, 1, 2, 1)]  # 1, 2 and 7 tasks; groups of one task among them
SMALL = {"expert_hidden": [5], "expert_dim": D}

Rows = list[torch.Tensor]
"""One vector per sample."""
Reference = Callable[[Rows, torch.Tensor], Sequence[Rows]]


def make(kind: str, group_of: tuple[int, ...] = (0, 1), seed: int = 0, **changes: object) -> MultiTaskModel:
    torch.manual_seed(seed)
    config = MODELS.read({"kind": kind, **SMALL, **changes})
    columns = {"tab": (1, 4), "user": (0, 2, 3), "age": (5,)}
    model = build_model(config, F, TaskGroups(group_of), columns).double()
    select(model, KernelSection(backend="eager"), torch.device("cpu"))
    with torch.no_grad():
        for parameter in model.parameters():  # away from zeros and ones, so that nothing cancels by chance
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def grid(*values: Iterable[object]) -> list[tuple[object, ...]]:
    return list(itertools.product(*values))


def compare(model: MultiTaskModel, reference: Reference, tasks: int) -> None:
    """Forward, and the gradients of v and of every parameter, for a batch with a filled sample and for a batch of one.

    reference: rows of v and the mask -> per task the rows of z.
    """
    for rows in (B, 1):
        mask = torch.ones(rows, dtype=torch.float64)
        mask[4:] = 0
        _compare(model, reference, tasks, mask)


def _compare(model: MultiTaskModel, reference: Reference, tasks: int, mask: torch.Tensor) -> None:
    v = torch.randn(len(mask), F, dtype=torch.float64, requires_grad=True)
    inputs = [v, *model.parameters()]
    names = ["v", *(n for n, _ in model.named_parameters())]
    ours, theirs = model(v, mask), torch.stack([torch.stack(z) for z in reference(list(v), mask)])
    assert theirs.shape == (tasks, len(mask), D)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)
    pull = torch.randn_like(ours) * mask.view(1, -1, 1)
    found = torch.autograd.grad((ours * pull).sum(), inputs, allow_unused=True)
    expected = torch.autograd.grad((theirs * pull).sum(), inputs, allow_unused=True)
    for name, mine, other, value in zip(names, found, expected, inputs, strict=True):
        mine, other = (torch.zeros_like(value) if g is None else g for g in (mine, other))
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-9, msg=lambda m, n=name: f"gradient of {n}: {m}")


def expert(bank: torch.nn.Module, index: int, xs: Rows, mask: torch.Tensor) -> Rows:
    """ReLU(W .. ReLU(W x + b) + b), or Swish(Norm(W .. ReLU(W x + b))) with statistics over the samples of the mask. With
    normalised hidden layers these are ReLU(Norm(W x))."""
    depth, biases = len(bank.weights), iter(bank.biases)
    for n in range(depth):
        last, xs = n == depth - 1, [bank.weights[n][index] @ x for x in xs]
        norm = bank.norm if last else bank.hidden_norms[n] if len(bank.hidden_norms) else None
        if norm is None:
            bias = next(biases)[index]
            xs = [torch.clamp(x + bias, min=0) for x in xs]
        elif last:
            xs = normed(norm, index, xs, mask)
        else:
            xs = [torch.clamp(x, min=0) for x in standardised(norm, index, xs, mask)]
    assert next(biases, None) is None
    return xs


def normed(norm: torch.nn.Module, index: int, xs: Rows, mask: torch.Tensor) -> Rows:
    return [x / (1 + torch.exp(-x)) for x in standardised(norm, index, xs, mask)]


def standardised(norm: torch.nn.Module, index: int, xs: Rows, mask: torch.Tensor) -> Rows:
    real = [x for x, m in zip(xs, mask, strict=True) if m]
    mean = sum(real) / len(real)
    variance = sum((x - mean) ** 2 for x in real) / len(real)
    return [(x - mean) / torch.sqrt(variance + 1e-5) * norm.weight[index] + norm.bias[index] for x in xs]


def perceptron(gates: torch.nn.Module, index: int, xs: Rows) -> Rows:
    """What a gate's scores read, after its hidden layers."""
    if gates.hidden is None:
        return xs
    after = []
    for x in xs:
        for weight, bias in zip(gates.hidden.weights, gates.hidden.biases, strict=True):
            x = torch.clamp(torch.stack([w @ x for w in weight[index]]) + bias[index], min=0)
        after.append(x)
    return after


def with_bias(gates: torch.nn.Module, index: int, xs: Rows) -> tuple[torch.Tensor, Rows]:
    """A gate's weight (E, H + 1) with its bias as a column, and inputs that end in 1."""
    bias = torch.zeros_like(gates.weight[index][:, 0]) if gates.bias is None else gates.bias[index]
    one = torch.ones(1, dtype=torch.float64)
    return torch.cat([gates.weight[index], bias.unsqueeze(1)], 1), [torch.cat([x, one]) for x in perceptron(gates, index, xs)]


def gated(weight: torch.Tensor, xs: Rows, sees: Sequence[int], outputs: Sequence[Rows]) -> Rows:
    """Per sample the sum over the experts in `sees` of softmax(W x)_e times the expert's output. weight: (E, F), one gate's."""
    mixed = []
    for row, x in enumerate(xs):
        grown = {e: torch.exp(weight[e] @ x) for e in sees}
        mixed.append(sum(grown[e] / sum(grown.values()) * outputs[e][row] for e in sees))
    return mixed
