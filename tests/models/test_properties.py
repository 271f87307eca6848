"""What holds for every kind: renumbered experts, tasks or samples renumber the output; one sample is enough."""

import copy

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from home_dist.config.model import MODELS
from tests.models.reference import B, D, F, make

TASKS, GROUP_OF = 3, (0, 0, 1)
SETTINGS = {
    "omoe": {"experts": 3},
    "mmoe": {"experts": 3},
    "ml_mmoe": {"experts": 3, "layers": 2},
    "cgc": {"shared_experts": 2, "task_experts": 2},
    "ple": {"shared_experts": 2, "task_experts": 2, "layers": 2},
    "home": {"shared_experts": 2, "group_experts": 2, "task_experts": 2, "feature_gate_rank": 3},
    "tensor_factorization": {"rank_tasks": 2},
    "adatt": {"shared_experts": 2, "task_experts": 2, "layers": 2},
    "smes": {"experts": 3, "shared_choices": 1},
    "stem": {"shared_experts": 2, "task_experts": 2, "layers": 2},
    "pepnet": {"domain_features": ["tab"], "prior_features": ["user", "age"]},
}

# Which axes of which parameters stand for tasks or experts. "tasks": one entry per task. "gates": tasks, then the shared gate.
# "all": experts that all gates see. "owned": own experts of each task, then shared ones. "home": of HoME's task layer.
AXES = {
    "single_task": {"trunks.": {0: "tasks"}},
    "shared_bottom": {},
    "omoe": {"bank.": {0: "all"}, "gates.weight": {1: "all"}},
    "mmoe": {"bank.": {0: "all"}, "gates.weight": {0: "tasks", 1: "all"}},
    # The last layer's experts; those below are tied to the experts that read them.
    "ml_mmoe": {
        "layers.0.gates.weight": {0: "all"},
        "layers.1.bank.": {0: "all"},
        "layers.1.gates.weight": {0: "tasks", 1: "all"},
    },
    "cgc": {"bank.": {0: "owned"}, "gates.weight": {0: "gates", 1: "owned"}},
    "ple": {".bank.": {0: "owned"}, ".gates.weight": {0: "gates", 1: "owned"}},
    "smes": {"bank.": {0: "all"}, "gates.weight": {0: "tasks", 1: "all"}},
    "stem": {".bank.": {0: "owned"}, ".gates.weight": {0: "gates", 1: "owned"}},
    "l2_constrained": {"trunks.": {0: "tasks"}},
    "esmm": {"trunks.": {0: "tasks"}},
    "cross_stitch": {"trunks.": {0: "tasks"}, "mixing.": {0: "tasks", 1: "tasks"}},
    "tensor_factorization": {".factor_task": {0: "tasks"}, ".bias": {0: "tasks"}},
    "adatt": {".bank.": {0: "owned"}, ".gates.weight": {0: "gates", 1: "owned"}, ".mixing": {0: "owned"}},
    "pepnet": {"trunks.": {0: "tasks"}, "ppnet.0.second.": {0: "units"}, "ppnet.1.second.": {0: "units"}},
    "home": {
        "task.bank.": {0: "home"},
        "task.gates.weight": {0: "tasks", 1: "home"},
        "task.self_gates.weight": {0: "tasks", 1: "home"},
        "task.feature_gate.down": {0: "home groups"},
        "task.feature_gate.choice": {0: "home groups"},
        "task.feature_gate.up": {0: "home groups"},
    },
}


def relabelled(kind, model, tasks, pair, three):
    """The same function with renumbered tasks, pairs of experts with the same readers, and triples of experts."""

    def pairs(blocks):
        return [2 * block + within for block in blocks for within in pair]

    index = {
        "tasks": list(tasks),
        "all": list(three),
        "owned": pairs([*tasks, TASKS]),
        "units": list(tasks),
        "home": pairs([0, 1, 2, *(3 + k for k in tasks)]),
        "home groups": [0, 1, 2, *(3 + k for k in tasks)],
    }
    other = copy.deepcopy(model)
    seen = set()
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            for part, axes in AXES[kind].items():
                if part not in name:
                    continue
                seen.add(part)
                for axis, what in axes.items():
                    size = parameter.shape[axis]
                    order = [*tasks, TASKS][:size] if what == "gates" else index[what][:size]
                    if size > len(order):  # what belongs to one group or task stands together
                        each = size // len(order)
                        order = [g * each + n for g in order for n in range(each)]
                    assert sorted(order) == list(range(size)), name
                    parameter.copy_(parameter.index_select(axis, torch.tensor(order)))
    assert seen == AXES[kind].keys()
    if kind == "home":
        other.group_of = model.group_of[list(tasks)]
        seen_by = model.task.gates.mask[list(tasks)][:, index["home"]]
        own = model.task.self_gates.mask[list(tasks)][:, index["home"]]
        other.task.gates.mask, other.task.self_gates.mask = seen_by, own
    return other


@pytest.mark.parametrize("kind", list(MODELS))
@settings(max_examples=8, deadline=None)
@given(tasks=st.permutations(range(TASKS)), pair=st.permutations(range(2)), three=st.permutations(range(3)))
def test_renumbering_tasks_and_experts_renumbers_the_output(kind, tasks, pair, three):
    model = make(kind, GROUP_OF, **SETTINGS.get(kind, {}))
    v = torch.randn(B, F, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = model(v)[list(tasks)]
    torch.testing.assert_close(relabelled(kind, model, tasks, pair, three)(v), expected, rtol=1e-9, atol=1e-10)
    if kind not in ("shared_bottom", "omoe") and list(tasks) != sorted(tasks):
        assert not torch.allclose(model(v), expected)


@pytest.mark.parametrize("kind", list(MODELS))
@settings(max_examples=8, deadline=None)
@given(order=st.permutations(range(B)), norm=st.booleans())
def test_renumbering_samples_renumbers_the_output(kind, order, norm):
    model = make(kind, GROUP_OF, **SETTINGS.get(kind, {}), **with_norm(kind, norm))
    v = torch.randn(B, F, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([1.0, 1, 0, 1, 1], dtype=torch.float64)
    torch.testing.assert_close(model(v, mask)[:, list(order)], model(v[list(order)], mask[list(order)]), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("group_of", [(0,), (0, 0, 0, 1, 1, 2, 1)])
@pytest.mark.parametrize("kind", list(MODELS))
def test_a_batch_of_one_in_training_is_finite(kind, group_of, norm):
    model = make(kind, group_of, **with_norm(kind, norm)).train()
    v = torch.randn(1, F, dtype=torch.float64, requires_grad=True)
    z = model(v, torch.ones(1, dtype=torch.float64))
    assert z.shape == (len(group_of), 1, D) == (len(group_of), 1, model.out_dim)
    (z.sum() + sum(model.auxiliary().values())).backward()
    assert z.isfinite().all()
    assert all(p.grad.isfinite().all() for p in [v, *model.parameters()])


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("kind", list(MODELS))
def test_filled_samples_change_nothing_for_the_others(kind, norm):
    model = make(kind, GROUP_OF, **SETTINGS.get(kind, {}), **with_norm(kind, norm)).train()
    v = torch.randn(B, F, dtype=torch.float64)
    mask = torch.tensor([1.0, 1, 1, 0, 0], dtype=torch.float64)
    filled = torch.where(mask.bool().unsqueeze(1), v, 100.0)
    torch.testing.assert_close(model(filled, mask)[:, :3], model(v[:3], mask[:3]), rtol=1e-9, atol=1e-10)


def with_norm(kind, norm):
    return {"expert_norm": norm} if "expert_norm" in MODELS.section(kind).model_fields else {}
