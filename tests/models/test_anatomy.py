"""Every kind of model names all of its experts, gates and feature gates."""

import pytest
import torch

from home_dist.config.model import MODELS
from home_dist.experts import ExpertBank, FeatureGate, MaskedGates, SelfGates
from home_dist.models import TaskGroups, build_model

TASKS = TaskGroups((0, 0, 1), ("like", "follow", "watch"), ("interaction", "passive"))
WITHOUT_EXPERTS = {"tensor_factorization"}


@pytest.mark.parametrize("kind", list(MODELS))
def test_nothing_is_left_out_and_names_tell_apart(kind):
    model = build_model(MODELS.section(kind)(), 12, TASKS)
    parts = model.anatomy(TASKS).parts
    assert [p.bank for p in parts] == [m for m in model.modules() if isinstance(m, ExpertBank)]
    assert bool(parts) == (kind not in WITHOUT_EXPERTS)
    for found, module in (("masked", MaskedGates), ("self_gates", SelfGates), ("feature_gate", FeatureGate)):
        named = {getattr(p, found) for p in parts} - {None}
        assert named == {m for m in model.modules() if isinstance(m, module)}
    names = [name for p in parts for name in p.experts]
    assert len(set(names)) == len(names)
    for p in parts:
        assert len(p.experts) == len(p.owners) == p.bank.total
        if p.masked is not None:
            assert p.masked.mask.shape == (len(p.gates), p.bank.total)
        if p.feature_gate is not None:
            assert len(p.inputs) == p.feature_gate.groups


@pytest.mark.parametrize("kind", ["cgc", "ple", "home"])
def test_a_task_s_gate_sees_its_own_and_shared_experts_and_no_other_task_s(kind):
    last = build_model(MODELS.section(kind)(), 12, TASKS).anatomy(TASKS).parts[-1]
    for gate, sees in zip(last.gates, last.masked.mask.tolist(), strict=True):
        for owner, seen in zip(last.owners, sees, strict=True):
            mine = owner.name in (TASKS.name(gate.task), TASKS.group_name(TASKS.group_of[gate.task]))
            assert seen == (owner.kind == "shared" or mine)


def test_names():
    meta, task = build_model(MODELS.section("home")(), 12, TASKS).anatomy(TASKS).parts
    assert meta.experts[::2] == ("meta/shared 0", "meta/interaction 0", "meta/passive 0")
    assert [g.name for g in meta.gates] == ["meta/interaction", "meta/passive", "meta/shared"]
    assert task.experts[-3:] == ("task/like 0", "task/follow 0", "task/watch 0")
    assert [(g.name, g.task) for g in task.gates] == [("task/like", 0), ("task/follow", 1), ("task/watch", 2)]
    assert meta.reads_features
    assert not task.reads_features


def test_own_experts_feed_their_owner():
    """The order of names is the bank's: silencing an expert changes only the states whose gate may see it."""
    torch.manual_seed(0)
    model = build_model(MODELS.section("cgc")(), 12, TASKS)
    [part] = model.anatomy(TASKS).parts
    v = torch.randn(5, 12)
    with torch.no_grad():
        before = model(v)
        own = part.experts.index("follow 0")
        for parameter in part.bank.parameters():
            parameter[own] = 0
        changed = (model(v) != before).any(2).any(1).tolist()
    assert changed == [False, True, False]
