"""What a warm start takes by name: tasks, groups and features in another order, of every model, give the same predictions."""

import copy
from collections.abc import Collection

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from home_dist.axes import axes_of, columns_of
from home_dist.config import RunConfig
from home_dist.config.model import MODELS
from home_dist.network import Head
from home_dist.schema import Schema, build_layout

TASKS = (("like", "a"), ("buy", "b"), ("share", "a"), ("watch", "c"))
FEATURES = (
    {"kind": "id", "name": "user", "column": "user", "table": "user"},
    {"kind": "id", "name": "tab", "column": "tab", "table": "tab"},
    {"kind": "statistic", "name": "plays", "column": "plays", "boundaries": [1.0, 2.0]},
    {"kind": "statistic", "name": "rate", "column": "rate", "boundaries": [0.0, 3.0]},
    {"kind": "dense", "name": "age", "column": "age"},
    {"kind": "dense", "name": "vector", "column": "vector", "width": 3},
)
OPTIONS = {
    "home": [{}, {"feature_gate": False, "self_gate": False}],
    "ple": [{"layers": 2, "feature_gate": True, "self_gate": True}],
    "cgc": [{"feature_gate": True, "self_gate": True}],
    "adatt": [{"layers": 2, "task_experts": 2}],
    "pepnet": [{"domain_features": ["tab"], "prior_features": ["user", "plays"]}],
    "cross_stitch": [{"stitch": "layer"}, {"stitch": "unit"}],
    "esmm": [{"after": {"buy": "like"}}],
}


def network(kind: str, options: dict, tasks=TASKS, features=FEATURES) -> tuple[Head, Schema]:
    schema = Schema.model_validate(
        {
            "table": [{"name": "user", "rows": 30}, {"name": "tab", "rows": 6}],
            "feature": list(features),
            "task": [{"name": name, "group": group, "column": name} for name, group in tasks],
        }
    )
    config = RunConfig.model_validate(
        {
            "run": {"dir": "x"},
            "data": {"path": "y"},
            "embedding": {"small_dim": 4, "replicate_rows": 100, "tables": {"tab": {"dim": 2}}},
            "model": {"kind": kind, "expert_hidden": [6], "expert_dim": 5, "tower_hidden": [3], **options},
        }
    )
    return Head(schema, build_layout(schema, config), config).double().eval(), schema


def filled(here: Head, schema: Schema, there: Head, other: Schema, changed: Collection[str] = ()) -> set[str]:
    """Takes all entries that both name. Returns the tensors of which something stayed."""
    ours, theirs = axes_of(here, schema, changed), axes_of(there, other)
    source, stayed = there.state_dict(), set()
    for name, value in here.state_dict().items():
        if ".replicated." in name:
            continue
        own = ours.get(name, (None,) * value.dim())
        before = theirs.get(name, (None,) * value.dim())
        assert len(own) == value.dim(), name
        places = []
        for size, axis, old in zip(value.shape, own, before, strict=True):
            if axis is None or old is None:
                assert axis == old, name
                places.append((torch.arange(size), torch.arange(size)))
                continue
            assert len(axis) == size == len(set(axis)), name
            known = {entry: place for place, entry in enumerate(old)}
            at = [place for place, entry in enumerate(axis) if entry in known]
            if len(at) < size:
                stayed.add(name)
            places.append((torch.tensor(at), torch.tensor([known[axis[place]] for place in at])))
        here_at, there_at = ([p[side] for p in places] for side in (0, 1))
        value[torch.meshgrid(*here_at, indexing="ij")] = source[name][torch.meshgrid(*there_at, indexing="ij")]
    return stayed


def predictions(head: Head, schema: Schema, v: dict, dense: dict) -> dict[str, torch.Tensor]:
    """By task, of a feature vector whose columns are given by name."""
    columns = columns_of(head.features)
    values = torch.stack([v[name] for name in columns], 1)
    width = head.features.layout.dense_width
    logits = head.logits(values, values[:, len(columns) - width :], None)
    return {task.name: logits[:, k] for k, task in enumerate(schema.task)}


CASES = [(kind, options) for kind in MODELS for options in OPTIONS.get(kind, [{}])]


@pytest.mark.parametrize(("kind", "options"), CASES, ids=[f"{k}-{n}" for n, (k, _) in enumerate(CASES)])
@settings(max_examples=4, deadline=None)
@given(tasks=st.permutations(TASKS), features=st.permutations(FEATURES), seed=st.integers(0, 99))
def test_another_order_of_tasks_groups_and_features_predicts_the_same(kind, options, tasks, features, seed):
    torch.manual_seed(seed)
    there, other = network(kind, options)
    with torch.no_grad():
        for value in there.state_dict().values():  # statistics and what begins at zero, too
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) * 0.5 + 0.25)
        there.state_dict()
    here, schema = network(kind, options, tasks, features)
    with torch.no_grad():
        assert filled(here, schema, there, other) == set()
        v = {name: torch.randn(7, dtype=torch.float64) for name in columns_of(there.features)}
        expected, got = predictions(there, other, v, {}), predictions(here, schema, v, {})
    for task, logits in expected.items():
        torch.testing.assert_close(got[task], logits)


@pytest.mark.parametrize(("kind", "options"), CASES, ids=[f"{k}-{n}" for n, (k, _) in enumerate(CASES)])
def test_one_task_and_one_statistic_replaced_begin_anew(kind, options):
    """Of the same shape, in the same place: taken by place they would serve the other."""
    there, other = network(kind, {k: v for k, v in options.items() if k != "after"})
    tasks = tuple(("follow", "a") if name == "like" else (name, group) for name, group in TASKS)
    features = tuple({**f, "name": "shares"} if f["name"] == "rate" else f for f in FEATURES)
    here, schema = network(kind, {k: v for k, v in options.items() if k != "after"}, tasks, features)
    first = copy.deepcopy(here.state_dict())
    with torch.no_grad():
        stayed = filled(here, schema, there, other)
    axes, now, before = axes_of(here, schema), here.state_dict(), there.state_dict()
    assert {"towers.weights.0", "linear.weight"} <= stayed
    gone = ("like", "rate")
    for name, own in axes.items():
        for dim, axis in enumerate(own):
            for place, (entity, _) in enumerate(axis or ()):
                words = entity.replace("(", " ").split()
                if "follow" in words or "shares" in words:
                    assert torch.equal(now[name].select(dim, place), first[name].select(dim, place)), (name, entity)
                assert not set(words) & set(gone)
        if name not in stayed:
            assert torch.equal(now[name], before[name])


@pytest.mark.parametrize(("kind", "options"), CASES, ids=[f"{k}-{n}" for n, (k, _) in enumerate(CASES)])
def test_nothing_that_reads_a_feature_fitted_otherwise_is_taken(kind, options):
    """A statistic with its vector and its number, and a dense feature: with their columns zero, predictions are the other
    network's; and what reads these columns keeps its first values."""
    torch.manual_seed(0)
    there, other = network(kind, options)
    here, schema = network(kind, options)
    changed = {"rate", "value rate", "value vector"}
    columns = columns_of(here.features)
    wholly = ("feature rate (vector of 4)", "feature rate (value)", "feature vector (value)")
    gone = [entity in wholly or entity.startswith("feature rate of task") for entity, _ in columns]
    assert sum(gone) == 4 * here.features.layout.features[0].table.sets + 1 + 3
    with torch.no_grad():
        for head in (there, here):
            for value in head.state_dict().values():
                if value.is_floating_point():
                    value.copy_(torch.rand_like(value) * 0.5 + 0.25)
        first = copy.deepcopy(here.state_dict())
        filled(here, schema, there, other, changed)
        v = torch.randn(7, len(columns), dtype=torch.float64).masked_fill(torch.tensor(gone), 0.0)
        dense = v[:, len(columns) - here.features.layout.dense_width :]
        torch.testing.assert_close(here.logits(v, dense, None), there.logits(v, dense, None))
    now, read = here.state_dict(), 0
    for name, own in axes_of(here, schema).items():
        for dim, axis in enumerate(own):
            for place, (entity, _) in enumerate(axis or ()):
                if any(f"feature {f}" in entity for f in ("rate (", "rate of task", "vector (")):
                    assert torch.equal(now[name].select(dim, place), first[name].select(dim, place)), (name, entity)
                    read += 1
    assert read >= 2 * (1 + 3) + 4  # at least the first layer and the linear path


@pytest.mark.parametrize(("kind", "options"), CASES, ids=[f"{k}-{n}" for n, (k, _) in enumerate(CASES)])
def test_a_task_or_group_called_shared_is_no_other_one(kind, options):
    tasks = (("like", "shared"), ("buy", "b"), ("shared", "b"))
    head, schema = network(kind, options, tasks)
    for name, own in axes_of(head, schema).items():
        for axis in own:
            assert axis is None or len(set(axis)) == len(axis), name
