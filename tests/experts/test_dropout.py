"""Dropout in the expert bank: eager and cpu against a float64 reference and a hash in Python integers."""

import pytest
import torch

from home_dist.experts import ExpertBank, InputDropout
from home_dist.experts.kernels import EAGER, Kernel, cpu_bank, eager
from home_dist.experts.kernels.dropout import Dropout, dropped_on_cpu
from home_dist.layers.recompute import recomputed
from tests.experts.cases import Case, Made, compare, reference

HOW = Dropout(0xDEADBEEF, 0x12345678, round(0.3 * 2**32), 1 / 0.7)
CASES = [
    Case(masked=True),
    Case(norm=False),
    Case(samples=201, masked=True, gates=6, experts=(2, 2)),
    Case(in_dim=7, hidden=(9,), out_dim=33, gates=4, norm=False),
]


def hashed(place: int, how: Dropout) -> int:
    def rounds(x: int) -> int:
        x ^= x >> 16
        x = x * 0x21F0AAAD % 2**32
        x ^= x >> 15
        x = x * 0xD35A2D97 % 2**32
        return x ^ x >> 15

    return rounds((rounds(place % 2**32 ^ how.first) + how.second) % 2**32)


def factors(experts: int, samples: int, width: int, how: Dropout) -> torch.Tensor:
    """(E, B, D)"""
    count = experts * samples * width
    kept = [0.0 if hashed(place, how) < how.threshold else how.factor for place in range(count)]
    return torch.tensor(kept, dtype=torch.float64).view(experts, samples, width)


def run(backend: str, made: Made, how: Dropout) -> torch.Tensor:
    operands = made.bank._operands()
    if backend == "eager":
        return eager.mixed(operands, made.inputs, made.gates, made.mask, "fp32", how)
    return cpu_bank.mixed(operands, made.inputs, made.gates, made.mask, "fp32", how)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("backend", ["eager", "cpu"])
def test_equals_the_reference(backend, case):
    made = case.make(torch.float64)
    kept = factors(made.bank.total, case.samples, case.out_dim, HOW)
    compare(made.results(run(backend, made, HOW)), made.results(reference(made, kept)), 1e-9)


def test_places_beyond_32_bits_start_anew():
    places = [e * 2**31 + b for e in range(3) for b in range(2**31 - 4, 2**31)]  # the last samples of 3 experts of width 1
    assert HOW.kept(torch.tensor(places)).tolist() == [hashed(place, HOW) >= HOW.threshold for place in places]


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_as_many_are_dropped_as_wanted_and_independently(rate):
    torch.manual_seed(0)
    like = torch.zeros(4, 500, 64)
    kept = torch.stack([Dropout.drawn(rate, like.device).factors(like) > 0 for _ in range(8)]).double()
    off = kept - (1 - rate)
    spread = (rate * (1 - rate)) ** 0.5
    assert off.mean().abs() < 4 * spread / kept.numel() ** 0.5
    for dim in range(4):  # neighbours among draws, experts, samples and units have nothing to do with each other
        one, other = off.narrow(dim, 0, off.shape[dim] - 1), off.narrow(dim, 1, off.shape[dim] - 1)
        assert (one * other).mean().abs() < 4 * spread**2 / one.numel() ** 0.5
        of_lines = off.mean([d for d in range(4) if d != dim])
        assert of_lines.abs().max() < 5 * spread / (kept.numel() / off.shape[dim]) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_input_drops_by_the_same_hash(dtype):
    x = torch.randn(70, 33, dtype=dtype).t().requires_grad_()
    out = dropped_on_cpu(x, HOW)
    kept = factors(1, 33, 70, HOW)[0].to(dtype)
    torch.testing.assert_close(out, x * kept)
    pull = torch.randn(33, 70, dtype=dtype)
    torch.testing.assert_close(*torch.autograd.grad((out * pull).sum(), x), pull * kept)


def test_the_input_drops_in_training_only():
    dropout, x = InputDropout(0.5), torch.ones(40, 30)
    for kernel in (EAGER, Kernel("cpu")):
        dropout.kernel = kernel
        assert set(dropout.train()(x).unique().tolist()) == {0.0, 2.0}
        assert torch.equal(dropout.eval()(x), x)


def test_all_backends_keep_the_same_outputs():
    torch.manual_seed(0)
    bank = ExpertBank([2, 1], 4, [8], 8, norm=True, dropout=0.5)
    x, gates = torch.randn(9, 4), torch.randn(3, 9, 3).softmax(-1)
    outputs = []
    for kernel in (EAGER, Kernel("cpu")):
        bank.kernel = kernel
        torch.manual_seed(1)
        outputs.append(bank.mixed([x, x], gates))
    torch.testing.assert_close(*outputs)
    torch.manual_seed(2)
    assert not torch.equal(bank.mixed([x, x], gates), outputs[1])


@pytest.mark.parametrize("kernel", [EAGER, Kernel("cpu")], ids=["eager", "cpu"])
def test_evaluation_drops_nothing_and_draws_nothing(kernel):
    torch.manual_seed(0)
    bank, plain = (ExpertBank([2], 4, [8], 8, norm=True, dropout=rate).eval() for rate in (0.5, 0.0))
    plain.load_state_dict(bank.state_dict())
    bank.kernel = plain.kernel = kernel
    x, gates = torch.randn(9, 4), torch.randn(3, 9, 2).softmax(-1)
    before = torch.get_rng_state()
    torch.testing.assert_close(bank.mixed([x], gates), plain.mixed([x], gates), rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("backend", ["eager", "cpu"])
def test_nan_shows_even_where_it_is_dropped(backend):
    made = Case(norm=False).make(torch.float64)
    with torch.no_grad():
        made.inputs[0][3] = torch.nan
        out = run(backend, made, HOW._replace(threshold=2**32 - 1))
    assert out[:, 3].isnan().all()
    assert out[:, 4].isfinite().all()


@pytest.mark.parametrize("kernel", [EAGER, Kernel("cpu")], ids=["eager", "cpu"])
def test_what_is_computed_anew_drops_the_same(kernel):
    bank = ExpertBank([2], 4, [8], 8, norm=True, dropout=0.5)
    bank.kernel = kernel
    x, gates = torch.randn(9, 4, requires_grad=True), torch.randn(3, 9, 2).softmax(-1)
    results = []
    for run in (lambda f, *a: f(*a), recomputed):
        torch.manual_seed(1)
        out = run(lambda v: bank.mixed([v], gates), x)
        torch.manual_seed(2)  # other draws before the backward
        results.append((out.detach(), *torch.autograd.grad(out.sum(), [x, *bank.parameters()])))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)
