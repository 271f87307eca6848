"""ESMM's probabilities against products written out."""

import itertools

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from pydantic import ValidationError

from home_dist.errors import ConfigError
from home_dist.models import TaskGroups, build_model
from home_dist.models.esmm import EsmmSection
from home_dist.schema import build_layout
from tests.factory import make_schema
from tests.models.reference import GROUPINGS, F, compare, expert, grid, make
from tests.test_network import configured

NAMES = ("buy", "click", "pay", "like")
AFTER = {"pay": "buy", "buy": "click"}


def chain(after):
    return build_model(EsmmSection(after=after), F, TaskGroups((0, 0, 0, 1), NAMES))


@pytest.mark.parametrize(("group_of", "norm"), grid(GROUPINGS, [False, True]))
def test_trunks(group_of, norm):
    model, tasks = make("esmm", group_of, expert_norm=norm), len(group_of)
    compare(model, lambda v, mask: [expert(model.trunks, k, v, mask) for k in range(tasks)], tasks)


@given(values=st.lists(st.floats(-9, 9), min_size=4, max_size=4))
def test_probabilities_are_products_along_the_chain(values):
    logits = torch.tensor([values], dtype=torch.float64, requires_grad=True)
    found = torch.sigmoid(chain(AFTER).joint(logits))[0]
    buy, click, pay, like = torch.sigmoid(logits)[0]
    expected = torch.stack([click * buy, click, click * buy * pay, like])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    pull = torch.tensor([1.0, -2, 3, 0.5], dtype=torch.float64)
    gradients = [torch.autograd.grad((p * pull).sum(), logits)[0] for p in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-10)


def test_no_logit_is_too_large():
    extremes = torch.tensor(list(itertools.product([-200.0, 0.0, 200.0], repeat=4)), requires_grad=True)
    found = chain(AFTER).joint(extremes)
    found.sum().backward()
    assert found.isfinite().all()
    assert extremes.grad.isfinite().all()


def test_without_an_entry_tasks_stand_for_themselves():
    logits = torch.randn(3, 4)
    assert torch.equal(chain({}).joint(logits), logits)


def test_towers_start_at_conditional_rates():
    rates = torch.tensor([0.02, 0.1, 0.01, 0.3])
    torch.testing.assert_close(chain(AFTER).tower_rates(rates), torch.tensor([0.2, 0.1, 0.5, 0.3]))
    odd = chain(AFTER).tower_rates(torch.tensor([0.2, 0.1, 0.01, 0.3]))  # rates that contradict the chain
    assert torch.logit(odd).isfinite().all()


def test_what_is_wrong_is_named():
    with pytest.raises(ValidationError, match="task 'a' comes after itself"):
        EsmmSection(after={"a": "b", "b": "a"})
    with pytest.raises(ConfigError, match=r"model\.after: 'share' is no task of this run; there are: like, follow, watch"):
        build_layout(make_schema(), configured(kind="esmm", after={"follow": "share"}))
