"""What a refused step leaves as it was, with the host reading at once or a step later."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torchrec.optim.keyed import KeyedOptimizerWrapper
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedTensor

from home_dist.layers.global_norm import GlobalBatchNorm
from home_dist.layers.step_check import LARGEST_FP16, StepCheck
from home_dist.training.optimizers import DenseOptimizer


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(5, 4), GlobalBatchNorm((4,)), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(torch.relu(self.norm(self.first(x))))


class Run:
    """Steps of a small model: bags (B, 2) and events that are looked up, dense values (B, 2)."""

    def __init__(self, late, accumulate=1):
        torch.manual_seed(0)
        self.head = Head()
        self.check = StepCheck(self.head, accumulate > 1, late=late)
        named = dict(self.head.named_parameters())
        adam = KeyedOptimizerWrapper(named, lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1, fused=True))
        self.optimizer = DenseOptimizer([("matrices", adam)], accumulate, 1.0, self.check)
        self.accumulate, self.steps = accumulate, 0
        self.bags, self.events = torch.randn(6, 2, requires_grad=True), torch.randn(6, 1, requires_grad=True)

    def step(self, number, value=1.0, factor=1.0):
        """number: of the batch; value: what its dense values are multiplied by; factor: the loss. Returns the gradients of what
        was looked up."""
        if self.steps % self.accumulate == 0:
            self.optimizer.zero_grad()
        self.steps += 1
        updates = self.steps % self.accumulate == 0
        dense = torch.randn(6, 2, generator=torch.Generator().manual_seed(number)) * value
        self.bags.grad = self.events.grad = None
        self.check.begin()
        bags, weighted, events = self.check.through(
            KeyedTensor(["a", "b"], [1, 1], self.bags),
            None,
            {"c": JaggedTensor(self.events, lengths=torch.ones(6, dtype=torch.int64))},
        )
        assert weighted is None
        out = self.head(torch.cat([bags.values(), events["c"].values(), dense], 1))
        loss = (out.square().sum() - out.sum()) * factor
        self.check.heard(loss, out.detach().sum(0), SimpleNamespace())
        loss.backward()
        self.check.after_backward(updates)
        if updates:
            self.optimizer.step()
        return [self.bags.grad.clone(), self.events.grad.clone()]

    def state(self):
        optimizer = [x.clone() for s in self.optimizer.state_dict()["state"].values() for x in s.values()]
        return [p.detach().clone() for p in self.head.state_dict().values()] + optimizer


def same(one, other):
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("wrong", [{"value": 1e30}, {"value": float("nan")}, {"factor": float("inf")}, {"factor": 1e20}])
def test_nothing_is_changed(late, wrong):
    run, undisturbed = Run(late), Run(late)
    for model in (run, undisturbed):
        model.step(1)
        model.step(2)
    before = run.state()
    gradients = run.step(3, **wrong)
    assert float(run.check.refused) == 1
    assert all((g == 0).all() for g in gradients)
    assert same(run.state(), before)
    assert same(run.step(4), undisturbed.step(4))
    assert float(run.check.refused) == 0
    assert same(run.state(), undisturbed.state())
    assert not same(run.state(), before)


def test_an_identity_changes_no_bit():
    checked, plain = Run(late=False), Run(late=False)
    plain.check.through = lambda bags, weighted, events: (bags, weighted, events)
    plain.check.decide = lambda _: None
    plain.optimizer.check = None
    for number in range(4):
        assert same(checked.step(number), plain.step(number))
    assert same(checked.state(), plain.state())


@pytest.mark.parametrize("bad", [{1}, {2}, {3}, {1, 3}, {1, 2, 3}])
def test_gradients_that_were_added_up_stay(bad):
    """Of three steps to an update the others count, whichever is refused; without any there is none."""
    run, expected = Run(late=False, accumulate=3), Run(late=False, accumulate=3)
    for number in range(3):
        run.step(number)
        expected.step(number)
    before = run.state()
    for number in (1, 2, 3):
        run.step(number, 1e30 if number in bad else 1.0)
    if len(bad) == 3:
        assert same(run.state(), before)
        return
    expected.optimizer.zero_grad()
    for number in sorted({1, 2, 3} - bad):
        expected.steps = 1  # no update, and no gradients that are forgotten
        expected.step(number)
    expected.optimizer.step()
    assert same(run.state(), expected.state())


def test_statistics_that_overflow_are_refused():
    """All that comes after an infinite variance is finite."""
    run = Run(late=False)
    run.step(1)
    before = [run.head.norm.running_mean.clone(), run.head.norm.running_var.clone()]
    nn.init.zeros_(run.head.last.weight)
    run.step(2, 1e25, factor=1e-30)
    assert float(run.check.refused) == 1
    assert same([run.head.norm.running_mean, run.head.norm.running_var], before)


@pytest.mark.parametrize(("apart", "refused"), [(True, 0.0), (False, 1.0)])
def test_the_limit_of_fp16_is_for_gradients_that_are_exchanged_in_it(apart, refused):
    head = nn.Linear(2, 1)
    check = StepCheck(head, dense_limit=LARGEST_FP16, apart=[head.weight] if apart else ())
    check.begin()
    loss = head(torch.full((1, 2), 1e5)).sum()
    check.heard(loss, loss.detach().view(1), SimpleNamespace())
    loss.backward()
    check.decide(())
    assert float(check.refused) == refused
