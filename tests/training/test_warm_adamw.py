"""AdamW's state in a warm start: entries that are taken go on as before, and new ones keep within a bound."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper

from home_dist.training.matching_entries import same_entries
from home_dist.training.optimizers import DenseOptimizer, create_state

LR = 0.01
BOUND = (1 - 0.9) / (1 - 0.999) ** 0.5 / (1 - 0.9**2 / 0.999) ** 0.5
"""Largest update of AdamW in learning rates, of any gradients, once its counter is large: by Cauchy-Schwarz."""


def optimized(parameter: nn.Parameter) -> torch.optim.AdamW:
    return torch.optim.AdamW([parameter], lr=LR, weight_decay=0.0, fused=True)


def stepped(optimizer: torch.optim.AdamW, parameter: nn.Parameter, gradient: torch.Tensor) -> torch.Tensor:
    """The parameter's change."""
    before = parameter.detach().clone()
    parameter.grad = gradient.clone()
    optimizer.step()
    return parameter.detach() - before


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(["a", "b", "c", "new", "newer"]), seed=st.integers(0, 99), constant=st.booleans())
def test_taken_entries_go_on_and_new_ones_keep_within_the_bound(order, seed, constant):
    random = torch.Generator().manual_seed(seed)
    theirs, ours = (tuple((name, 0) for name in names) for names in (("a", "b", "c"), order))
    there = nn.Parameter(torch.randn(2, 3, generator=random))
    old = optimized(there)
    for _ in range(3000):
        stepped(old, there, torch.randn(2, 3, generator=random))
    here = nn.Parameter(torch.randn(2, 5, generator=random))
    new = optimized(here)
    stepped(new, here, torch.zeros(2, 5))  # creates the state
    entries = same_entries(here.shape, there.shape, (None, ours), (None, theirs))
    assert not entries.same
    assert entries.lacking == tuple(f for f in order if f.startswith("new"))
    state = new.state[here]
    with torch.no_grad():
        entries.fill(here, there.detach())
        for key in ("exp_avg", "exp_avg_sq"):
            assert not state[key].any()
            entries.fill(state[key], old.state[there][key])
        state["step"].copy_(old.state[there]["step"])
    taken = [order.index(name) for name in "abc"]
    fresh = [place for place, name in enumerate(order) if name.startswith("new")]
    assert not state["exp_avg_sq"][:, fresh].any()
    steady = torch.randn(2, 5, generator=random)
    for number in range(150):
        gradient = steady if constant else torch.randn(2, 5, generator=random)
        expected, got = stepped(old, there, gradient[:, taken]), stepped(new, here, gradient)
        # Not all bits: AdamW's vector loop and its rest, where an entry may be now, round otherwise.
        torch.testing.assert_close(here.detach()[:, taken], there.detach(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(got[:, taken], expected, rtol=1e-3, atol=1e-6)
        updates = got[:, fresh].abs() / LR
        if number == 0:
            torch.testing.assert_close(updates, torch.full_like(updates, 10**0.5 * 0.975), rtol=0.03, atol=0)
        assert updates.max() < BOUND < 7.3


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_created_state_is_that_of_no_step(clip_norm):
    """Parameters keep all bits in spite of weight decay, and the first step is the one without created state."""

    def made(parameters: dict[str, nn.Parameter]) -> CombinedOptimizer:
        adamw = KeyedOptimizerWrapper(parameters, lambda p: torch.optim.AdamW(p, lr=LR, weight_decay=0.5, fused=True))
        return CombinedOptimizer([("dense", DenseOptimizer([("matrices", adamw)], 1, clip_norm))])

    parameters = {"a": nn.Parameter(torch.randn(4, 3)), "b": nn.Parameter(torch.tensor([0.0, -0.0, 1e-38]))}
    plain = copy.deepcopy(parameters)
    with_state, without = made(parameters), made(plain)
    create_state(with_state)
    for name, parameter in parameters.items():
        assert parameter.grad is None
        assert torch.equal(parameter.view(torch.int32), plain[name].view(torch.int32))
        state = with_state.state[parameter]
        assert {key: float(value.abs().max()) for key, value in state.items()} == {"step": 0, "exp_avg": 0, "exp_avg_sq": 0}
    assert [group["lr"] for group in with_state.param_groups] == [LR]
    for one, other in zip(parameters.values(), plain.values(), strict=True):
        one.grad = torch.randn_like(one)
        other.grad = one.grad.clone()
    with_state.step()
    without.step()
    for name in plain:
        assert torch.equal(parameters[name], plain[name])
