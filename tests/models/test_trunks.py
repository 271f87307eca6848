"""Models of one trunk per task, held together in different ways, against references written from the equations."""

import pytest
import torch

from home_dist.models import TaskGroups, build_model
from home_dist.models.cross_stitch import CrossStitchSection
from home_dist.models.tensor_factorization import TensorFactorizationSection
from tests.models.reference import GROUPINGS, B, D, F, compare, expert, grid, make

HIDDEN = [[5], [], [3, 5]]


def weights_of(bank, task):
    """All that a task's trunk learns, as one vector."""
    return torch.cat([p[task].flatten() for p in bank.parameters()])


@pytest.mark.parametrize(("group_of", "norm"), grid(GROUPINGS, [False, True]))
def test_l2_constrained(group_of, norm):
    tasks = len(group_of)
    model = make("l2_constrained", group_of, alpha=0.3, expert_norm=norm, expert_hidden=[3, 5])
    compare(model, lambda v, mask: [expert(model.trunks, k, v, mask) for k in range(tasks)], tasks)
    expected = torch.zeros((), dtype=torch.float64)
    for i in range(tasks):
        for j in range(i + 1, tasks):
            expected = expected + 0.3 * (weights_of(model.trunks, i) - weights_of(model.trunks, j)).square().sum()
    (found,) = model.auxiliary().values()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    if tasks == 1:
        assert found == 0
        return
    parameters = list(model.parameters())
    for mine, other in zip(torch.autograd.grad(found, parameters), torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("group_of", "hidden", "stitch"), grid(GROUPINGS, HIDDEN, ["layer", "unit"]))
def test_cross_stitch(group_of, hidden, stitch):
    tasks = len(group_of)
    model = make("cross_stitch", group_of, expert_hidden=hidden, stitch=stitch, expert_norm=hidden == [5])

    def reference(v, mask):
        xs = [v] * tasks
        for layer, a in zip(model.trunks, model.mixing, strict=True):
            outputs = [expert(layer, k, xs[k], mask) for k in range(tasks)]
            width = len(outputs[0][0])
            xs = [
                [
                    torch.stack(
                        [
                            sum((a[i, j] if stitch == "layer" else a[u, i, j]) * outputs[j][row][u] for j in range(tasks))
                            for u in range(width)
                        ]
                    )
                    for row in range(len(v))
                ]
                for i in range(tasks)
            ]
        return xs

    assert len(model.trunks) == len(hidden) + 1
    compare(model, reference, tasks)


@pytest.mark.parametrize("stitch", ["layer", "unit"])
def test_stitching_starts_near_the_identity_and_keeps_sums(stitch):
    for tasks, beside in ((1, None), (2, 0.2), (5, 0.05)):
        model = build_model(CrossStitchSection(stitch=stitch, stitch_self=0.8), F, TaskGroups((0,) * tasks))
        for mixing in model.mixing:
            assert mixing.sum(-1).allclose(torch.ones(()))
            assert mixing.diagonal(dim1=-2, dim2=-1).allclose(torch.tensor(1.0 if tasks == 1 else 0.8))
            if beside is not None:
                assert mixing[..., 0, 1].allclose(torch.tensor(beside))


@pytest.mark.parametrize(("group_of", "hidden", "ranks"), grid(GROUPINGS, HIDDEN, [(1, 1, 1), (2, 3, 2), (99, 99, 99)]))
def test_tensor_factorization(group_of, hidden, ranks):
    tasks = len(group_of)
    settings = dict(zip(("rank_in", "rank_out", "rank_tasks"), ranks, strict=True))
    model = make("tensor_factorization", group_of, expert_hidden=hidden, **settings)

    def reference(v, mask):
        xs = [v] * tasks
        for layer in model.layers:
            core, u_in, u_out, u_task = layer.core, layer.factor_in, layer.factor_out, layer.factor_task
            for k in range(tasks):
                weight = torch.zeros(len(u_in), len(u_out), dtype=torch.float64)
                for a in range(core.shape[0]):
                    for b in range(core.shape[1]):
                        scale = sum(core[a, b, c] * u_task[k, c] for c in range(core.shape[2]))
                        weight = weight + scale * torch.outer(u_in[:, a], u_out[:, b])
                xs[k] = [torch.clamp(x @ weight + layer.bias[k], min=0) for x in xs[k]]
        return xs

    widths = [F, *hidden, D]
    for layer, fan_in, fan_out in zip(model.layers, widths[:-1], widths[1:], strict=True):
        assert layer.core.shape == (min(ranks[0], fan_in), min(ranks[1], fan_out), min(ranks[2], tasks))
    compare(model, reference, tasks)


def test_factors_start_such_that_activations_keep_their_size():
    torch.manual_seed(0)
    config = TensorFactorizationSection(expert_hidden=(256, 256), expert_dim=256)
    squares = [build_model(config, 512, TaskGroups((0,) * 8))(torch.randn(64, 512)).square().mean() for _ in range(10)]
    assert 0.25 < torch.stack(squares).mean() < 4  # Kaiming's scale for ReLU keeps the mean square, here over three layers


@pytest.mark.parametrize("features", [{}, {"domain_features": ["tab"], "prior_features": ["user", "age"]}])
@pytest.mark.parametrize(("group_of", "hidden"), grid(GROUPINGS, HIDDEN))
def test_pepnet(group_of, hidden, features):
    tasks = len(group_of)
    model = make("pepnet", group_of, expert_hidden=hidden, gate_hidden=3, expert_norm=hidden == [5], **features)
    named = bool(features)

    def gate(unit, x):
        h = torch.clamp(unit.first.weight @ x + unit.first.bias, min=0)
        return 2 / (1 + torch.exp(-(unit.second.weight @ h + unit.second.bias)))

    def reference(v, mask):
        domain, prior = ((1, 4), (0, 2, 3, 5)) if named else ((), ())
        o = [x * gate(model.epnet, torch.cat([x[list(domain)], x.detach()])) for x in v]
        reads = [torch.cat([x[list(prior)], y.detach()]) for x, y in zip(v, o, strict=True)]
        xs = [o] * tasks
        for layer, unit in zip(model.trunks, model.ppnet, strict=True):
            outputs = [expert(layer, k, xs[k], mask) for k in range(tasks)]
            width = len(outputs[0][0])
            scales = [gate(unit, r) for r in reads]
            xs = [[h * s[k * width : (k + 1) * width] for h, s in zip(outputs[k], scales, strict=True)] for k in range(tasks)]
        return xs

    compare(model, reference, tasks)


def test_gates_of_pepnet_send_a_gradient_to_prior_features_alone():
    model = make("pepnet", (0, 1), domain_features=["tab"], prior_features=["user"])
    scales = []
    model.epnet.register_forward_hook(lambda module, _, scale: scales.append(scale))
    v = torch.randn(B, F, dtype=torch.float64, requires_grad=True)
    model(v)
    scales[0].sum().backward()
    assert (v.grad.abs().sum(0) > 0).tolist() == [False, True, False, False, True, False]
