"""HoME against a reference written from the equations: loops over samples, experts, gates and tasks, in float64."""

import itertools

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from home_dist.experts.kernels import Kernel, KernelUser
from home_dist.experts.kernels.cpu_library import multiplies_bf16
from home_dist.models import TaskGroups
from home_dist.models.home import Home, HomeSection

F, B = 10, 5


def config(**changes) -> HomeSection:
    small = {"expert_hidden": [6], "expert_dim": 4, "feature_gates": 3, "feature_gate_rank": 3}
    return HomeSection(**{**small, "shared_experts": 2, "group_experts": 2, **changes})


def make(settings: HomeSection, group_of: tuple[int, ...], seed: int = 0) -> Home:
    torch.manual_seed(seed)
    model = Home(settings, F, TaskGroups(group_of)).double()
    with torch.no_grad():
        for parameter in model.parameters():  # away from zeros and ones, so that nothing cancels by chance
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def reference(
    model: Home, settings: HomeSection, group_of: tuple[int, ...], v: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """(K, B, D)"""
    groups, tasks, rows = max(group_of) + 1, len(group_of), range(len(v))
    shared_n, group_n, task_n = settings.shared_experts, settings.group_experts, settings.task_experts

    def feature_gated(layer, group, x):
        if not settings.feature_gate:
            return x
        gate, loras = layer.feature_gate, settings.feature_gates
        rank = gate.rank
        choice = torch.softmax(torch.stack([gate.choice[group, n] @ x for n in range(loras)]), 0)
        scale = torch.zeros_like(x)
        for n in range(loras):
            low = gate.down[group, n * rank : (n + 1) * rank] @ x
            wide = low @ gate.up[group * loras + n]
            scale = scale + choice[n] * (torch.sigmoid(wide) if settings.feature_gate_sigmoid == "inside" else wide)
        return x * 2 * (scale if settings.feature_gate_sigmoid == "inside" else torch.sigmoid(scale))

    def expert_outputs(layer, expert, xs):
        bank, outputs = layer.bank, []
        for x in xs:
            depth = len(bank.weights)
            for d in range(depth):
                x = bank.weights[d][expert] @ x
                if d < len(bank.biases):  # none before the normalisation
                    x = x + bank.biases[d][expert]
                if d < depth - 1:
                    x = torch.clamp(x, min=0)
            outputs.append(x)
        if not settings.expert_norm:
            return [torch.clamp(x, min=0) for x in outputs]
        real = [x for x, m in zip(outputs, mask, strict=True) if m]
        mean = sum(real) / len(real)
        var = sum((x - mean) ** 2 for x in real) / len(real)
        normed = [(x - mean) / torch.sqrt(var + 1e-5) * bank.norm.weight[expert] + bank.norm.bias[expert] for x in outputs]
        return [x / (1 + torch.exp(-x)) for x in normed]

    def score(gates, gate, e, x):
        if gates.hidden is not None:
            for weight, bias in zip(gates.hidden.weights, gates.hidden.biases, strict=True):
                x = torch.clamp(weight[gate] @ x + bias[gate], min=0)
        return gates.weight[gate, e] @ x + (0 if gates.bias is None else gates.bias[gate, e])

    def mixed(layer, gate, x, sees, own, outputs, row):
        if not settings.hierarchy_mask:
            sees = range(len(outputs))
        scores = {e: score(layer.gates, gate, e, x) for e in sees}
        total = sum(torch.exp(s) for s in scores.values())
        z = sum(torch.exp(scores[e]) / total * outputs[e][row] for e in sees)
        if settings.self_gate:
            scores = {e: score(layer.self_gates, gate, e, x) for e in own}
            total = sum(torch.exp(s) for s in scores.values())
            for e in own:
                z = z + (torch.sigmoid(scores[e]) if len(own) == 1 else torch.exp(scores[e]) / total) * outputs[e][row]
        return z

    # Meta layer: experts in the order shared, group 0, group 1, ..
    inputs = [[feature_gated(model.meta, g, v[b]) for b in rows] for g in range(1 + groups)]
    owner = [0] * shared_n + [1 + g for g in range(groups) for _ in range(group_n)]
    outputs = [expert_outputs(model.meta, e, inputs[owner[e]]) for e in range(len(owner))]
    gate_reads = (lambda g, b: inputs[g][b]) if settings.gate_input == "gated" else (lambda g, b: v[b])
    of = lambda *wanted: [e for e, o in enumerate(owner) if o in wanted]  # noqa: E731
    z = [[mixed(model.meta, c, gate_reads(1 + c, b), of(0, 1 + c), of(1 + c), outputs, b) for b in rows] for c in range(groups)]
    z_shared = [mixed(model.meta, groups, gate_reads(0, b), range(len(owner)), of(0), outputs, b) for b in rows]

    # Task layer: shared, groups, tasks.
    sources = [z_shared, *z, *(z[group_of[k]] for k in range(tasks))]
    inputs = [[feature_gated(model.task, g, x) for x in source] for g, source in enumerate(sources)]
    owner = [0] * shared_n + [1 + g for g in range(groups) for _ in range(group_n)]
    owner += [1 + groups + k for k in range(tasks) for _ in range(task_n)]
    outputs = [expert_outputs(model.task, e, inputs[owner[e]]) for e in range(len(owner))]
    states = []
    for k in range(tasks):
        own = [e for e, o in enumerate(owner) if o == 1 + groups + k]
        sees = [e for e, o in enumerate(owner) if o in (0, 1 + group_of[k])] + own
        both = [torch.cat([z[group_of[k]][b], z_shared[b]]) for b in rows]
        states.append(torch.stack([mixed(model.task, k, both[b], sees, own, outputs, b) for b in rows]))
    return torch.stack(states)


GROUPINGS = [(0,), (0, 0), (0, 1), (0, 0, 0, 1, 1, 2, 1)]
SWITCHES = [
    {},
    {"expert_norm": False},
    {"gate_hidden": [3], "gate_bias": True},
    {"layer_hidden": [[5], [3, 2]], "layer_dims": [3, 4]},
    {"hierarchy_mask": False},
    {"feature_gate": False},
    {"self_gate": False},
    {"gate_input": "gated", "feature_gate_sigmoid": "outside"},
    {"shared_experts": 1, "group_experts": 1, "task_experts": 2},
    {"expert_hidden": []},
    {"expert_hidden": [5, 7]},
]


@pytest.mark.parametrize(("group_of", "changes"), list(itertools.product(GROUPINGS, SWITCHES)))
def test_forward_and_all_gradients_equal_the_reference(group_of, changes):
    settings = config(**changes)
    model = make(settings, group_of)
    v = torch.randn(B, F, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([1.0, 1, 1, 1, 0], dtype=torch.float64)
    pull = torch.randn(len(group_of), B, settings.expert_dim, dtype=torch.float64) * mask.view(1, B, 1)
    inputs = [v, *model.parameters()]

    ours, theirs = model(v, mask), reference(model, settings, group_of, v, mask)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)
    ours = torch.autograd.grad((ours * pull).sum(), inputs, allow_unused=True)
    theirs = torch.autograd.grad((theirs * pull).sum(), inputs, allow_unused=True)
    for mine, other, parameter in zip(ours, theirs, inputs, strict=True):
        expected = torch.zeros_like(parameter) if other is None else other
        torch.testing.assert_close(torch.zeros_like(parameter) if mine is None else mine, expected, rtol=1e-8, atol=1e-9)


def test_experts_that_a_gate_may_not_see_have_no_weight_and_no_gradient():
    group_of = (0, 0, 1)
    model = make(config(), group_of)
    v = torch.randn(B, F, dtype=torch.float64)
    weights = model.meta.gates(v)
    hidden = ~model.meta.gates.mask
    assert hidden.any()
    assert (weights.transpose(1, 2)[hidden] == 0).all()
    # Task 2 is alone in group 1: nothing of the experts of tasks 0 and 1 may reach it or be reached by it.
    model(v)[2].sum().backward()
    counts = torch.tensor(model.task.bank.experts)
    owner = torch.arange(len(counts)).repeat_interleave(counts)
    of_others = (owner == 1) | (owner == 3) | (owner == 4)
    assert (model.task.bank.weights[0].grad[of_others] == 0).all()
    assert (model.task.bank.weights[0].grad[~of_others] != 0).any()
    assert (model.task.gates.weight.grad.abs().sum(-1)[~model.task.gates.mask] == 0).all()


def test_masked_samples_change_nothing_for_the_others():
    model = make(config(), (0, 1))
    v = torch.randn(B, F, dtype=torch.float64)
    mask = torch.tensor([1.0, 1, 1, 0, 0], dtype=torch.float64)
    other = v.clone()
    other[3:] = 100.0
    first, running = model(v, mask)[:, :3], model.meta.bank.norm.running_mean.clone()
    model.meta.bank.norm.running_mean.zero_()
    torch.testing.assert_close(model(other, mask)[:, :3], first, rtol=0, atol=0)
    torch.testing.assert_close(model.meta.bank.norm.running_mean, running)
    torch.testing.assert_close(make(config(), (0, 1))(v[:3]), first)


def test_batch_of_one_in_training_is_finite():
    model = make(config(), (0, 1)).train()
    out = model(torch.randn(1, F, dtype=torch.float64))
    out.sum().backward()
    assert out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(B)), training=st.booleans())
def test_permuting_samples_permutes_the_output(order, training):
    model = make(config(), (0, 0, 1)).train(training)
    v = torch.randn(B, F, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model(v)[:, list(order)], model(v[list(order)]), rtol=1e-9, atol=1e-10)


def test_groups_must_be_numbered_without_gaps():
    with pytest.raises(ValueError, match="without gaps"):
        TaskGroups((0, 2))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_has_as_many_operators_with_many_tasks(precision):
    if precision == "bf16" and not multiplies_bf16():
        pytest.skip("without products of bf16 in the processor torch multiplies expert by expert")

    def operators(tasks: int) -> int:
        model = Home(config(), F, TaskGroups(tuple(t % 2 for t in range(tasks))))
        for module in model.modules():
            if isinstance(module, KernelUser):
                module.kernel = Kernel("cpu", precision)
        x = torch.randn(B, F, requires_grad=True)
        model(x).sum().backward()  # the first call makes what is kept
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            model(x).sum().backward()
        return sum(e.name.startswith("aten::") for e in profile.events())

    few, many = operators(4), operators(24)
    assert 100 < few < 1000
    # One gradient is accumulated for each parameter, and there are as many parameters.
    assert many <= few + 2
