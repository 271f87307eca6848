"""The expert bank's operator: eager and cpu against a float64 reference, forward and all gradients."""

import pytest
import torch

from home_dist.experts.kernels import Kernel, cpu_bank, cpu_library, cpu_products, eager, torch_products
from home_dist.experts.kernels.fused import Activation
from home_dist.layers.recompute import recomputed
from home_dist.native_library import CannotBuild
from tests.experts.cases import CASES, Case, Made, compare, distances, reference


def run(backend: str, made: Made, precision: str = "fp32") -> torch.Tensor:
    operands = made.bank._operands()
    if backend == "eager":
        return eager.mixed(operands, made.inputs, made.gates, made.mask, precision)
    return cpu_bank.mixed(operands, made.inputs, made.gates, made.mask, precision)


BACKENDS = ["eager", "cpu"]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_the_reference(backend, case):
    exact = case.make(torch.float64)
    expected = exact.results(reference(exact))
    compare(exact.results(run(backend, exact)), expected, 1e-9)
    single = case.make(torch.float64)
    single.bank.float()
    single.inputs = [x.detach().float().requires_grad_() for x in single.inputs]
    single.gates = single.gates.detach().float().requires_grad_()
    single.pull = single.pull.float()
    single.mask = None if single.mask is None else single.mask.float()
    if case.samples > 1:  # of one sample, normalised, all gradients but a bias's are rounding noise
        compare(single.results(run(backend, single)), expected, 2e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_evaluation_uses_running_averages(backend):
    made = Case(masked=True).make(torch.float64)
    with torch.no_grad():
        run(backend, made)
    assert (made.bank.norm.running_mean != 0).all()
    made.bank.eval()
    compare(made.results(run(backend, made)), made.results(reference(made)), 1e-9)


@pytest.mark.parametrize("masked", [False, True])
def test_running_averages_equal_eager(masked):
    ours, theirs = (Case(masked=masked).make(torch.float64) for _ in range(2))
    run("cpu", ours)
    run("eager", theirs)
    torch.testing.assert_close(ours.bank.norm.running_mean, theirs.bank.norm.running_mean)
    torch.testing.assert_close(ours.bank.norm.running_var, theirs.bank.norm.running_var)


@pytest.mark.parametrize("case", [Case(masked=True), Case(norm=False), Case(hidden=(8, 24))], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_bf16_rounds_operands_of_products_alone(backend, case):
    """Eager also rounds what products give, so that ReLUs fall to the other side; so does a CPU without products of bf16."""
    exact_sums = backend == "cpu" and cpu_bank.multiplies_bf16()
    made = case.make(torch.float32)
    found = made.results(run(backend, made, "bf16"))
    exact = made.to(torch.float64)
    off = distances(found, exact.results(reference(exact, bf16=True)))
    assert off["output"] < (2e-3 if exact_sums else 8e-3)
    if exact_sums:  # which rounds gradients of activations, by 2^-9 each
        assert max(off.values()) < 6e-3
    assert distances(found, exact.results(reference(exact)))["output"] < 1e-2


@pytest.mark.parametrize("case", [Case(masked=True), Case(norm=False), Case(hidden=(8, 24))], ids=str)
def test_bf16_without_amx_equals_eager_in_bf16(case, monkeypatch):
    monkeypatch.setattr(cpu_bank, "multiplies_bf16", lambda: False)
    # Both round alike in the forward; in the backward, cpu also rounds the gradients of hidden activations, by 2^-9 each.
    ours, theirs = (case.make(torch.float32) for _ in range(2))
    bf16 = ours.results(run("cpu", ours, "bf16"))
    assert max(distances(bf16, theirs.results(run("eager", theirs, "bf16"))).values()) < 8e-3
    exact = case.make(torch.float32)  # gradients are apart where a ReLU of so few samples falls to the other side
    assert distances(bf16, exact.results(run("eager", exact)))["output"] < 1e-2


@pytest.mark.parametrize("case", [Case(), Case(experts=(5, 1, 3), norm=False, samples=300)], ids=str)
def test_inputs_of_bf16_are_read_and_get_gradients_as_they_are(case):
    made, single = (case.make(torch.float32) for _ in range(2))
    made.inputs = [x.detach().bfloat16().requires_grad_() for x in made.inputs]
    with torch.no_grad():
        for x, rounded in zip(single.inputs, made.inputs, strict=True):
            x.copy_(rounded)
    found, expected = made.results(run("cpu", made, "bf16")), single.results(run("cpu", single, "bf16"))
    for name, value in found.items():
        kept = value.dtype == torch.bfloat16
        assert kept == name.startswith("input ")
        torch.testing.assert_close(value, expected[name].to(value.dtype), rtol=0, atol=0)
    with pytest.raises(TypeError, match="fp32 or fp64 throughout"):
        run("cpu", made)


@pytest.mark.parametrize("products", [cpu_products, torch_products], ids=["library", "torch"])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_blocks_of_experts_change_nothing(monkeypatch, products, threads):
    # In fp64 the products made for bf16 show more than rounding.
    monkeypatch.setattr(cpu_bank, "_products", lambda layers: products)
    expected = Case(experts=(5, 1, 3)).make(torch.float64)
    expected = expected.results(run("eager", expected))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for size in (1, 20_000):
            monkeypatch.setattr(products, "BLOCK_BYTES", size)
            made = Case(experts=(5, 1, 3)).make(torch.float64)
            compare(made.results(run("cpu", made)), expected, 1e-12)
    finally:
        torch.set_num_threads(before)


def test_the_blas_of_torch_has_products():
    assert cpu_library.gemm(torch.float32)
    assert cpu_library.gemm(torch.float64)
    with pytest.raises(CannotBuild, match="no usable matrix product"):
        cpu_library.gemm(torch.float16)


def test_results_do_not_depend_on_the_number_of_threads():
    by_threads = []
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        made = Case(samples=300, norm=False, hidden=()).make(torch.float32)
        y = torch.randn(6, 300, 16, generator=torch.Generator().manual_seed(1))
        by_threads.append([*cpu_products.moments_of(y, None), made.results(run("cpu", made))["biases.0"]])
        torch.set_num_threads(before)
    for one, two in zip(*by_threads, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_statistics_far_from_zero_keep_their_precision():
    y = torch.randn(2, 500, 8) + 3000
    exact = (y.double() - y.double().mean(1, keepdim=True)).square().sum(1)
    _, squares = cpu_products.moments_of(y, None)
    torch.testing.assert_close(squares.double(), exact, rtol=1e-3, atol=0)


def test_extreme_arguments_of_swish():
    y = torch.tensor([-1e30, -300.0, -90, -87.5, -20, -1e-3, 0, 1e-3, 20, 87.5, 300, 1e30]).view(1, 1, -1)
    one = torch.ones(1, 12)
    out = cpu_bank.mix(y, Activation(one, one * 0, one * 0, one), torch.ones(1, 1, 1), None)
    torch.testing.assert_close(out, torch.nn.functional.silu(y), rtol=2e-6, atol=1e-30)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("norm", [True, False])
def test_nan_in_the_input_shows(backend, norm):
    made = Case(norm=norm).make(torch.float32)
    with torch.no_grad():
        made.inputs[0][3, 4] = torch.nan
    results = made.results(run(backend, made))
    assert results["output"][:, 3].isnan().all()
    assert results["weights.0"][:3, :, 4].isnan().any(1).all()
    if norm:  # it is part of the batch's statistics
        assert results["output"].isnan().all()
    else:
        assert results["output"][:, [0, 1, 2, 4, 5]].isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_batch_of_one_in_training_gives_the_bias(backend):
    made = Case(samples=1).make(torch.float64)
    results = made.results(run(backend, made))
    swish = torch.nn.functional.silu(made.bank.norm.bias)
    torch.testing.assert_close(results["output"][:, 0], made.gates[:, 0] @ swish)
    assert all(r.isfinite().all() for r in results.values())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_of_filled_samples_alone_is_finite(backend):
    made = Case().make(torch.float64)
    made.mask = torch.zeros(37, dtype=torch.float64)
    before = made.bank.norm.running_var.clone()
    assert all(r.isfinite().all() for r in made.results(run(backend, made)).values())
    torch.testing.assert_close(made.bank.norm.running_var, before)


@pytest.mark.parametrize("backend", ["eager", "cpu"])
@pytest.mark.parametrize("norm", [True, False])
def test_experts_that_no_gate_sees_get_no_gradient(backend, norm):
    seen, unseen = [0, 2, 4], [1, 3, 5]  # all experts of input 1 are unseen
    made, other = (Case(norm=norm).make(torch.float64) for _ in range(2))
    for each in (made, other):
        each.bank.kernel = Kernel(backend)
        with torch.no_grad():
            each.gates[:, :, unseen] = 0
    with torch.no_grad():  # no result depends on them
        for parameter in other.bank.parameters():
            parameter[unseen] += 1
    results, changed = (each.results(each.bank.mixed(each.inputs, each.gates)) for each in (made, other))
    torch.testing.assert_close(results["output"], changed["output"])
    torch.testing.assert_close(results["output"], made.results(reference(made))["output"])
    for name, _ in made.bank.named_parameters():
        assert (results[name][unseen] == 0).all()
        torch.testing.assert_close(results[name][seen], changed[name][seen])
    assert (results["input 1"] == 0).all()


@pytest.mark.parametrize("backend", ["eager", "cpu"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_inputs_as_one_tensor(backend, precision):
    results = []
    for together in (False, True):
        made = Case().make(torch.float32)
        made.bank.kernel = Kernel(backend, precision)
        inputs = torch.stack(made.inputs).detach().requires_grad_() if together else made.inputs
        out = made.bank.mixed(inputs, made.gates)
        grads = torch.autograd.grad((out * made.pull).sum(), inputs if together else list(inputs))
        results.append((out.detach(), grads[0] if together else torch.stack(grads)))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two)


def test_memory_of_a_step_is_that_of_hidden_activations_and_raw_outputs():
    """The activated outputs never exist as a whole, nor do gradients of hidden activations."""
    made = Case(experts=(16,), samples=2048, in_dim=8, hidden=(32,), out_dim=16, gates=2).make(torch.float32)
    leaves = list(made.leaves().values())
    torch.autograd.grad(run("cpu", made).sum(), leaves)
    with torch.profiler.profile(profile_memory=True) as trace:
        torch.autograd.grad(run("cpu", made).sum(), leaves)
    held = peak = 0
    for event in trace.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    hidden, raw, mixed = 16 * 2048 * 32 * 4, 16 * 2048 * 16 * 4, 2 * 2048 * 16 * 4
    assert peak < hidden + raw + 2 * mixed + hidden / 4


def test_a_second_backward_through_a_freed_graph_is_refused():
    made = Case().make(torch.float64)
    out = run("cpu", made)
    out.sum().backward()
    with pytest.raises(RuntimeError, match=r"retain_graph=True|second time"):
        out.sum().backward()


@pytest.mark.parametrize("case", [Case(masked=True), Case(norm=False), Case(hidden=()), Case(hidden=(8, 24))], ids=str)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("anew", [False, True], ids=["kept", "recomputed"])
def test_gradients_can_be_taken_several_times_from_one_graph(case, precision, anew):
    """The first backward overwrites the kept activations; the others compute them again."""
    made, fresh = (case.make(torch.float32) for _ in range(2))
    out = recomputed(lambda: run("cpu", made, precision)) if anew else run("cpu", made, precision)
    expected = fresh.results(run("cpu", fresh, precision))
    for retain in (True, True, False):
        grads = torch.autograd.grad((out * made.pull).sum(), list(made.leaves().values()), retain_graph=retain)
        for name, grad in zip(made.leaves(), grads, strict=True):
            torch.testing.assert_close(grad, expected[name], rtol=0, atol=0)
    if case.norm:
        torch.testing.assert_close(made.bank.norm.running_var, fresh.bank.norm.running_var, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match=r"retain_graph=True|second time"):
        out.sum().backward()


def test_weights_that_change_between_two_backwards_are_refused():
    made = Case().make(torch.float64)
    out = run("cpu", made)
    out.sum().backward(retain_graph=True)
    with torch.no_grad():
        made.bank.weights[0] += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()
