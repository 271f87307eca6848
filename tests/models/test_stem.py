"""STEM against a reference written from its equations: sets of columns, experts of other tasks without gradient."""

import pytest
import torch

from home_dist.config import load_config
from home_dist.config.model import MODELS
from home_dist.insight.sums import gradients, statistics
from home_dist.models import FeatureColumns, TaskGroups, build_model
from home_dist.network import Network
from home_dist.schema import build_layout, load_schema
from tests.factory import make_config, make_data
from tests.models.reference import B, D, compare, expert, gated, grid

GROUPINGS = [(0,), (0, 1), (0, 0, 1)]


def make_sets(group_of, layers, own, shared, norm=False):
    """A model on F = 6 columns: one vector per set, in two features, and a number that all sets see; returns its sets."""
    tasks = len(group_of)
    width = 6 - 1  # of v, without the number
    sets = (
        [[(s + n * (tasks + 1)) % width for n in range(2)] for s in range(tasks + 1)] if tasks < 3 else [[s] for s in range(4)]
    )
    torch.manual_seed(0)
    options = {"layers": layers, "task_experts": own, "shared_experts": shared, "expert_norm": norm}
    config = MODELS.read({"kind": "stem", "expert_hidden": [5], "expert_dim": D, **options})
    model = build_model(config, 6, TaskGroups(group_of), FeatureColumns({}, sets)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    used = {c for columns in sets for c in columns}
    return model, [[*columns, *(c for c in range(6) if c not in used)] for columns in sets]


@pytest.mark.parametrize(
    ("group_of", "layers", "own", "shared", "norm"), grid(GROUPINGS, [1, 2], [1, 2], [1, 2], [False, True])
)
def test_equals_the_equations(group_of, layers, own, shared, norm):
    model, sets = make_sets(group_of, layers, own, shared, norm)
    tasks = len(group_of)
    owner = [k for k in range(tasks) for _ in range(own)] + [tasks] * shared

    def reference(v, mask):
        states = [[x[sets[k + 1]] for x in v] for k in range(tasks)] + [[x[sets[0]] for x in v]]
        for layer in model.layers:
            f = [expert(layer.bank, e, states[owner[e]], mask) for e in range(len(owner))]
            after = []
            for gate in range(len(layer.gates.weight)):
                own_gate = gate < tasks
                reads = [a + b if own_gate else b for a, b in zip(states[gate], states[tasks], strict=True)]
                seen = [
                    [x.detach() for x in rows] if own_gate and owner[e] not in (gate, tasks) else rows
                    for e, rows in enumerate(f)
                ]
                after.append(gated(layer.gates.weight[gate], reads, range(len(owner)), seen))
            states = after
        return states[:tasks]

    compare(model, reference, tasks)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stem")
    data = make_data(folder / "data", rows=60, files=1)
    config = load_config(make_config(folder, data), ["model.kind=stem", "embedding.replicate_rows=100"])
    schema = load_schema(config.schema_path())
    torch.manual_seed(0)
    return Network(schema, build_layout(schema, config), config, torch.device("cpu"))


def test_rows_hold_a_set_per_task(network):
    """Three tasks: tables are four times as wide, and the encoders of histories read the shared set."""
    head = network.head
    assert {t.name: (t.dim, t.sets) for t in head.features.layout.tables}["video"] == (32, 4)
    sets = head.features.sets()
    assert len(sets) == 4
    assert len({len(s) for s in sets}) == 1
    assert len({c for s in sets for c in s}) == sum(len(s) for s in sets)
    video = head.features.columns()["video"]
    assert [c for s in sets for c in s if c in video] == video
    events = next(iter(head.features.encoders.values()))
    assert events.out_dim <= 3 * 8


def test_a_task_gives_no_gradient_to_other_tasks_sets_and_experts(network):
    head = network.head
    model = head.model.train()
    v = torch.randn(B, head.features.width, requires_grad=True)
    sets = head.features.sets()
    states = model(v, torch.ones(B))
    for k in range(3):
        grad, *of_experts = torch.autograd.grad(
            states[k].square().sum(), [v, *model.layers[0].bank.parameters()], retain_graph=True
        )
        touched = [bool(grad[:, columns].abs().sum() > 0) for columns in sets]
        # x_k + x_shared, which the gate reads, and the experts on them.
        assert touched == [True, *(j == k for j in range(3))]
        for of_layer in of_experts:
            assert [bool(g.abs().sum() > 0) for g in of_layer[:3]] == [j == k for j in range(3)]
    # What others have learned is read: their columns change the state.
    for j in range(3):
        other = v.detach().clone()
        other[:, sets[j + 1]] += 1
        assert not torch.allclose(model(other, torch.ones(B))[0], states[0])


def test_insight_sees_the_gates(network):
    head = network.head
    anatomy = head.model.anatomy(TaskGroups((0, 0, 1), ("like", "follow", "watch"), ("interaction", "passive")))
    v = torch.randn(B, head.features.width)
    sums = statistics(head, anatomy, v)
    assert sums["0.weight"].shape == (3, 4)
    torch.testing.assert_close(sums["0.weight"].sum(1).double(), torch.full((3,), float(B), dtype=torch.float64))
    labels, weights = torch.zeros(B, 3), torch.ones(B, 3)
    found = gradients(head, anatomy, v, torch.zeros(B, head.features.layout.dense_width), labels, weights)
    own = found["0.gradients"] > 0
    assert own.tolist() == [[j in (k, 3) for j in range(4)] for k in range(3)]
