"""The models that benchmarks/family.py and benchmarks/recipe.py compare: equal sizes, and what a trial's own model computes."""

import math

import pytest
import torch

from benchmarks import family
from benchmarks.family import FAMILY
from benchmarks.shared_bias import SharedBias, SharedBiasSection
from home_dist.config.model import MODELS
from home_dist.models.tasks import TaskGroups

TASKS = TaskGroups((0, 0, 1), ("like", "forward", "long_view"), ("interaction", "watch"))


@pytest.mark.parametrize("name", FAMILY)
def test_members_of_the_family_have_one_size(name):
    member = FAMILY[name]
    values = {key.removeprefix("model."): value == "true" for key, value in (s.split("=") for s in member.settings)}
    model = MODELS.find(member.kind)
    section = model.section(kind=member.kind, expert_hidden=(member.hidden,), expert_dim=member.dim, **values)
    tasks = TaskGroups((0,) * 5 + (1,) * 3, tuple("abcdefgh"), ("interaction", "watch"))
    size = sum(p.numel() for p in model(section, 800, tasks).parameters())
    assert size == pytest.approx(757_000, rel=0.02)


def test_a_shared_bias_is_added_to_sparse_tasks_alone():
    torch.manual_seed(0)
    model = SharedBias(SharedBiasSection(sparse=("like", "forward")), 12, TASKS).double().eval()
    v, logits = torch.randn(5, 12).double(), torch.randn(5, 3).double()
    states = model(v).detach()
    assert torch.equal(model.joint(logits), logits)  # it begins at zero
    torch.nn.init.normal_(model.shared[2].weight)
    first, _, last = model.shared.requires_grad_(False)
    model(v)
    joint = model.joint(logits)
    for row in range(5):
        mean = (states[0, row] + states[1, row]) / 2
        bias = float(last.weight[0] @ torch.clamp(first.weight @ mean + first.bias, min=0))
        wanted = [logits[row, 0] + bias, logits[row, 1] + bias, logits[row, 2]]
        assert joint[row].tolist() == pytest.approx([float(w) for w in wanted], abs=1e-12)


@pytest.mark.parametrize(
    ("peak", "tried", "best"),
    [
        (5e-3, ["0.0025", "0.005", "0.01"], "0.005"),
        (2e-2, ["0.0025", "0.005", "0.01", "0.02", "0.04"], "0.02"),
        (1e-5, ["0.000625", "0.00125", "0.0025", "0.005", "0.01"], "0.000625"),  # no further ones are tried
    ],
)
def test_rates_are_tried_until_the_best_is_no_end(monkeypatch, peak, tried, best):
    asked = []

    def figures(how, kind, rate, seeds):
        asked.append(rate)
        return {"AUC": 0.8 - abs(math.log(float(rate) / peak)) / 100, "log loss": 0.2}

    monkeypatch.setattr(family, "on_first_day", figures)
    found = family.tuned(None, "mmoe", family.rates_of("1e-2,2.5e-3,5e-3,0.005"), 3)
    assert sorted(found, key=float) == tried
    assert sorted(asked, key=float) == tried
    assert family.best_rate(found) == best
    [header, _, row] = [line for line in family.rates_table({"mmoe": found}) if line.startswith("|")]
    assert header.count("|") == row.count("|") == len(tried) + 2
