"""The bank of chosen experts: eager and cpu against a float64 reference, forward and all gradients."""

import pytest
import torch

from home_dist.experts.kernels import Kernel, sparse_cpu, sparse_eager
from home_dist.experts.kernels.dropout import Dropout
from home_dist.experts.kernels.sparse_cpu import Pairs
from home_dist.layers.recompute import recomputed
from tests.experts.cases import compare, distances
from tests.experts.sparse_cases import SPARSE_CASES, SparseCase, SparseMade, sparse_reference

BACKENDS = {"eager": sparse_eager.mixed, "cpu": sparse_cpu.mixed}


def run(backend: str, made: SparseMade, precision: str = "fp32", dropout: Dropout | None = None) -> torch.Tensor:
    return BACKENDS[backend](made.bank._operands(), made.x, made.chosen, made.gates, made.mask, precision, dropout)


@pytest.mark.parametrize("case", SPARSE_CASES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_the_reference(backend, case):
    exact = case.make(torch.float64)
    expected = exact.results(sparse_reference(exact))
    compare(exact.results(run(backend, exact)), expected, 1e-9)
    if case.samples > 5 or not case.norm:  # of few samples, normalised, gradients are rounding noise
        single = case.make(torch.float64).to(torch.float32)
        compare(single.results(run(backend, single)), expected, 1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("norm", [True, False])
def test_dropout_drops_the_same_outputs(backend, norm):
    made = SparseCase(norm=norm, masked=True).make(torch.float64)
    dropout = Dropout(3, 7, 1 << 30, 4 / 3)
    factors = dropout.factors(torch.empty(6, 37, 16, dtype=torch.float64))
    assert 0.2 < float((factors == 0).double().mean()) < 0.3
    compare(made.results(run(backend, made, dropout=dropout)), made.results(sparse_reference(made, factors)), 1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_evaluation_uses_running_averages(backend):
    made = SparseCase(masked=True).make(torch.float64)
    with torch.no_grad():
        run(backend, made)
    assert (made.bank.norm.running_mean != 0).all()
    made.bank.eval()
    compare(made.results(run(backend, made)), made.results(sparse_reference(made)), 1e-9)


def test_running_averages_equal_eager_and_stay_where_none_chose():
    ours, theirs = (SparseCase(experts=40, slots=2, samples=9, masked=True).make(torch.float64) for _ in range(2))
    run("cpu", ours)
    run("eager", theirs)
    torch.testing.assert_close(ours.bank.norm.running_mean, theirs.bank.norm.running_mean)
    torch.testing.assert_close(ours.bank.norm.running_var, theirs.bank.norm.running_var)
    chosen = torch.zeros(40, dtype=torch.bool)
    chosen[ours.chosen[:, ours.mask > 0].flatten()] = True
    assert 0 < chosen.sum() < 40
    assert (ours.bank.norm.running_mean[~chosen] == 0).all()
    assert (ours.bank.norm.running_mean[chosen] != 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_sample_a_batch_does_not_shrink_the_running_variance(backend):
    """An expert that one sample of each batch chooses: its variance is not known, its mean is."""
    made = SparseCase(experts=3, slots=1, gates=1).make(torch.float64)
    made.chosen[:] = 0
    made.chosen[0, 5] = 1
    with torch.no_grad():
        for _ in range(60):
            run(backend, made)
    norm = made.bank.norm
    assert (norm.running_var[1] == 1).all()
    assert (norm.running_var[0] != 1).all()
    own = run(backend, made)
    made.bank.eval()
    torch.testing.assert_close(run(backend, made)[0, 5], own[0, 5], rtol=0.02, atol=0.02)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("norm", [True, False])
def test_no_samples(backend, precision, norm):
    made = SparseCase(samples=0, norm=norm).make(torch.float32)
    results = made.results(run(backend, made, precision))
    assert results["output"].shape == (4, 0, 16)
    assert all((g == 0).all() for g in results.values())


@pytest.mark.parametrize(
    "wrong",
    [{"chosen": torch.int32}, {"gates": (4, 37, 2)}, {"x": (37, 21)}, {"x": (36, 20)}, {"mask": (36,)}, {"chosen": (4, 37)}],
)
def test_what_does_not_fit_is_refused(wrong):
    made = SparseCase(masked=True).make(torch.float32)
    arguments = {"x": made.x, "chosen": made.chosen, "gates": made.gates, "mask": made.mask}
    for name, change in wrong.items():
        value = arguments[name]
        arguments[name] = value.to(change) if isinstance(change, torch.dtype) else torch.zeros(change, dtype=value.dtype)
    with pytest.raises(ValueError, match=r"chosen experts are int64 \(K, B, M\)"):
        made.bank.of_chosen(**arguments)


@pytest.mark.parametrize("case", [SparseCase(masked=True), SparseCase(norm=False), SparseCase(hidden=(8, 24))], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_bf16_rounds_operands_of_products_alone(backend, case):
    """Eager also rounds what products give, so that ReLUs fall to the other side."""
    made = case.make(torch.float32)
    found = made.results(run(backend, made, "bf16"))
    exact = made.to(torch.float64)
    off = distances(found, exact.results(sparse_reference(exact, bf16=True)))
    assert off["output"] < (2e-3 if backend == "cpu" else 8e-3)
    if backend == "cpu":  # which rounds gradients of activations, by 2^-9 each
        assert max(off.values()) < 8e-3
    assert distances(found, exact.results(sparse_reference(exact)))["output"] < 1e-2


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_nothing_but_rounding(threads):
    case = SparseCase(samples=1100, masked=True, experts=4, slots=2, favourite=True)
    expected = case.make(torch.float64)
    expected = expected.results(run("eager", expected))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        made = case.make(torch.float64)
        compare(made.results(run("cpu", made)), expected, 1e-11)
    finally:
        torch.set_num_threads(before)


def test_pairs_are_those_of_a_loop():
    chosen = SparseCase(experts=9, slots=4, samples=50).make(torch.float64).chosen
    pairs = Pairs.of(chosen, 9)
    expected = sorted({(int(e), b) for k in range(4) for b in range(50) for e in chosen[k, b]})
    experts = torch.repeat_interleave(torch.arange(9), pairs.offsets.diff())
    assert list(zip(experts.tolist(), pairs.samples.tolist(), strict=True)) == expected
    for b in range(50):
        own = pairs.pairs[pairs.starts[b] : pairs.starts[b + 1]]
        assert (pairs.samples[own] == b).all()
        assert torch.equal(experts[own][pairs.places[b].long()], chosen[:, b])


@pytest.mark.parametrize("wrong", [-1, 6])
def test_an_expert_that_is_not_there_is_refused(wrong):
    made = SparseCase().make(torch.float32)
    made.chosen[1, 2, 0] = wrong
    with pytest.raises(ValueError, match=f"numbered from 0 to 5: chosen are {min(0, wrong)} to {max(5, wrong)}"):
        run("cpu", made)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("norm", [True, False])
def test_nan_in_the_input_shows_where_its_experts_are_used(backend, norm):
    made = SparseCase(norm=norm, slots=1, gates=2).make(torch.float32)
    with torch.no_grad():
        made.x[3, 4] = torch.nan
    out = run(backend, made)
    own = set(made.chosen[:, 3].flatten().tolist())
    touched = torch.tensor([[int(e) in own for e in of_task] for of_task in made.chosen[..., 0]])
    expected = touched if norm else torch.arange(37).eq(3).expand(2, -1)
    assert torch.equal(out.isnan().any(2), expected)


def test_a_second_backward_and_recomputation_give_the_same():
    made = SparseCase(masked=True, hidden=(8, 24)).make(torch.float64)
    made.bank.kernel = Kernel("cpu")
    leaves = [made.x, made.gates, *made.bank.parameters()]
    out = made.bank.of_chosen(made.x, made.chosen, made.gates, made.mask)
    first = torch.autograd.grad((out * made.pull).sum(), leaves, retain_graph=True)
    second = torch.autograd.grad((out * made.pull).sum(), leaves)
    again = recomputed(made.bank.of_chosen, made.x, made.chosen, made.gates, made.mask)
    third = torch.autograd.grad((again * made.pull).sum(), leaves)
    for one, two, three in zip(first, second, third, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(one, three, rtol=1e-12, atol=1e-12)


def test_memory_is_by_pairs():
    """Twice the experts at equal choice: the same activations are kept."""
    kept = []
    for experts in (8, 64):
        made = SparseCase(experts=experts, slots=1, gates=1, norm=False).make(torch.float32)
        sizes: list[int] = []
        out = run("cpu", made)
        y, hidden = out.grad_fn.activations
        sizes = [y.numel(), *(h.numel() for [h] in hidden)]
        kept.append(sizes)
    assert kept[0] == kept[1] == [37 * 16, 37 * 24]
