"""Recomputed activations: the same gradients and running averages, and no memory before the backward."""

import copy
import gc
import weakref

import pytest
import torch

from home_dist.experts.kernels import cpu_bank, fused
from home_dist.layers import recompute
from tests.experts.cases import Case


def run(backend, made):
    if backend == "eager":
        from home_dist.experts.kernels import eager

        return eager.mixed(made.bank._operands(), made.inputs, made.gates, made.mask, "fp32")
    return cpu_bank.mixed(made.bank._operands(), made.inputs, made.gates, made.mask, "fp32")


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("backend", ["eager", "cpu"])
def test_gradients_and_running_averages_are_the_same(backend, masked):
    plain, anew = (Case(masked=masked).make(torch.float64) for _ in range(2))
    anew.bank = copy.deepcopy(plain.bank)
    expected = plain.results(run(backend, plain))
    actual = anew.results(recompute.recomputed(lambda: run(backend, anew)))
    for one, other in zip(actual.values(), expected.values(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(anew.bank.norm.running_mean, plain.bank.norm.running_mean)
    assert torch.equal(anew.bank.norm.running_var, plain.bank.norm.running_var)
    assert not recompute.within()


@pytest.mark.parametrize("anew", [False, True])
def test_the_fused_operator_keeps_its_activations_only_if_it_must(anew, monkeypatch):
    kept = []

    def save(ctx, tensors, y, hidden):
        kept.extend(weakref.ref(t) for t in (y, *(block for layer in hidden for block in layer)))
        return fused.save(ctx, tensors, y, hidden)

    monkeypatch.setattr(cpu_bank, "save", save)
    made = Case().make(torch.float64)
    out = recompute.recomputed(lambda: run("cpu", made)) if anew else run("cpu", made)
    gc.collect()
    assert kept
    assert [ref() is None for ref in kept] == [anew] * len(kept)
    out.sum().backward()


def test_without_gradients_nothing_is_done_twice():
    calls = []
    with torch.no_grad():
        recompute.recomputed(lambda: calls.append(recompute.within()))
    assert calls == [False]
