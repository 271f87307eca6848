"""The feature gate: eager and cpu against a float64 reference, forward and all gradients."""

import math
from dataclasses import dataclass
from typing import Literal

import pytest
import torch

from home_dist.config import KernelSection
from home_dist.experts import FeatureGate
from home_dist.experts.kernels import Kernel, cpu_feature_gate, select
from tests.experts.cases import compare, distances

BACKENDS = ["eager", "cpu"]


@dataclass
class Case:
    sigmoid: Literal["inside", "outside"] = "inside"
    shared: bool = True
    groups: int = 3
    gates: int = 2
    samples: int = 37
    in_dim: int = 20
    max_rank: int = 6

    def __str__(self) -> str:
        return "-".join(f"{k}{v}" for k, v in vars(self).items())

    def make(self, dtype: torch.dtype) -> "Made":
        torch.manual_seed(0)
        gate = FeatureGate(self.groups, self.in_dim, self.gates, self.max_rank, self.sigmoid).double()
        with torch.no_grad():
            for parameter in gate.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
        shape = (self.samples, self.in_dim) if self.shared else (self.groups, self.samples, self.in_dim)
        x = torch.randn(shape, dtype=torch.float64)
        pull = torch.randn(self.groups, self.samples, self.in_dim, dtype=torch.float64)
        return Made(gate.to(dtype), x.to(dtype).requires_grad_(), pull.to(dtype))


@dataclass
class Made:
    gate: FeatureGate
    x: torch.Tensor
    pull: torch.Tensor

    def results(self, out: torch.Tensor, **options: bool) -> dict[str, torch.Tensor]:
        """The output and all gradients, by name."""
        leaves = {"x": self.x, **dict(self.gate.named_parameters())}
        grads = torch.autograd.grad((out * self.pull).sum(), list(leaves.values()), **options)
        return {"output": out.detach(), **dict(zip(leaves, grads, strict=True))}


CASES = [
    Case(),
    Case(sigmoid="outside"),
    Case(shared=False),
    Case(shared=False, sigmoid="outside"),
    Case(gates=1, groups=1),
    Case(gates=1, groups=1, shared=False, samples=1),
    Case(gates=5, samples=1, in_dim=7),
    Case(gates=4, samples=201, in_dim=33, shared=False),
]


def run(backend: str, made: Made, precision: str = "fp32") -> torch.Tensor:
    made.gate.kernel = Kernel(backend, precision)
    return made.gate(made.x)


def reference(made: Made) -> torch.Tensor:
    """(G, B, F)"""
    gate, outs = made.gate, []
    for g in range(gate.groups):
        x = made.x if made.x.dim() == 2 else made.x[g]
        powers = torch.exp(x @ gate.choice[g].T)
        total = 0.0
        for n in range(gate.gates):
            down = gate.down[g, n * gate.rank : (n + 1) * gate.rank]
            wide = x @ down.T @ gate.up[g * gate.gates + n]
            share = (powers[:, n] / powers.sum(1)).unsqueeze(1)
            total = total + share * (1 / (1 + torch.exp(-wide)) if gate.sigmoid == "inside" else wide)
        outs.append(x * 2 * (total if gate.sigmoid == "inside" else 1 / (1 + torch.exp(-total))))
    return torch.stack(outs)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_the_reference(backend, case):
    exact = case.make(torch.float64)
    expected = exact.results(reference(exact))
    compare(exact.results(run(backend, exact)), expected, 1e-9)
    single = case.make(torch.float32)
    compare(single.results(run(backend, single)), expected, 2e-5)


@pytest.mark.parametrize("case", CASES[:4], ids=str)
def test_bf16_equals_eager_in_bf16(case):
    ours, theirs = (case.make(torch.float32) for _ in range(2))
    off = distances(ours.results(run("cpu", ours, "bf16")), theirs.results(run("eager", theirs, "bf16")))
    assert max(off.values()) < 1e-2
    assert off["output"] < 4e-3


@pytest.mark.parametrize("case", CASES[:4], ids=str)
def test_chunks_of_samples_change_nothing(case, monkeypatch):
    whole = case.make(torch.float64)
    expected = whole.results(run("cpu", whole))
    monkeypatch.setattr(cpu_feature_gate, "CHUNK_BYTES", 1)  # 16 samples in a chunk, the last one cut
    made = case.make(torch.float64)
    compare(made.results(run("cpu", made)), expected, 1e-12)


@pytest.mark.parametrize("shared", [True, False])
def test_inputs_that_need_no_gradient(shared):
    made, whole = (Case(shared=shared).make(torch.float64) for _ in range(2))
    expected = whole.results(run("eager", whole))
    out = run("cpu", Made(made.gate, made.x.detach(), made.pull))
    grads = torch.autograd.grad((out * made.pull).sum(), list(made.gate.parameters()))
    for (name, _), grad in zip(made.gate.named_parameters(), grads, strict=True):
        torch.testing.assert_close(grad, expected[name])


def test_gradients_can_be_taken_twice_from_one_graph():
    made = Case().make(torch.float64)
    out = run("cpu", made)
    first = made.results(out, retain_graph=True)
    for name, again in made.results(out).items():
        torch.testing.assert_close(again, first[name], rtol=0, atol=0)


@pytest.mark.parametrize("shared", [True, False])
def test_parts_of_samples_and_threads_change_nothing(shared, monkeypatch):
    monkeypatch.setattr(cpu_feature_gate, "CHUNK_BYTES", 1 << 12)  # several chunks in a part
    case = Case(shared=shared, samples=1000)  # 7 parts, the last one cut
    whole = case.make(torch.float64)
    expected, before = whole.results(run("eager", whole)), torch.get_num_threads()
    by_threads = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            made = case.make(torch.float64)
            by_threads.append(made.results(run("cpu", made)))
    finally:
        torch.set_num_threads(before)
    compare(by_threads[0], expected, 1e-12)
    for other in by_threads[1:]:
        compare(other, by_threads[0], 1e-15)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_in_the_input_shows_and_stays_with_its_sample(backend):
    made = Case().make(torch.float32)
    with torch.no_grad():
        made.x[3, 4] = torch.nan
    out = run(backend, made)
    assert out[:, 3].isnan().all()
    assert out.isnan().sum() == 3 * 20


@pytest.mark.parametrize("shared", [True, False])
def test_memory_of_a_step_does_not_hold_the_low_rank_gates(shared, monkeypatch):
    monkeypatch.setattr(cpu_feature_gate, "CHUNK_BYTES", 1 << 14)
    case = Case(shared=shared, gates=4, samples=1024, in_dim=64, max_rank=4)
    made = case.make(torch.float32)
    run("cpu", made).sum().backward()
    with torch.profiler.profile(profile_memory=True) as trace:
        made.results(run("cpu", made))
    held = peak = 0
    for event in trace.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    out = 3 * 1024 * 64 * 4
    # The output, its gradient and its product with `pull`, the input's gradient; of the rest, low-rank activations and shares.
    assert peak < 3 * out + math.prod(made.x.shape) * 4 + out


def test_mixed_types_are_refused():
    made = Case().make(torch.float32)
    select(made.gate, KernelSection(), torch.device("cpu"))
    with pytest.raises(TypeError, match=r"throughout, got torch.float32, torch.float64"):
        made.gate(made.x.double())
