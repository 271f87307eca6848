"""Figures of experts, gates and gradients against plain loops over samples; ranks together against all samples at once."""

import math
import os
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from home_dist.config.model import MODELS
from home_dist.experts import ExpertBank
from home_dist.insight.figures import figures
from home_dist.insight.sums import EDGES, gradients, over_ranks, statistics
from home_dist.insight.watch import watched
from tests.insight.heads import make_head, make_rows
from tests.ranks import spawn


def joined(*parts):
    return {name: sum(p[name].double() for p in parts) for name in parts[0]}


def measured(head, anatomy, rows):
    sums = statistics(head, anatomy, rows[0]) | gradients(head, anatomy, *rows)
    return figures(joined(sums), anatomy, head.features.columns())


def home_by_hand(head, v):
    """The two layers' expert outputs, gates and self gates, in evaluation mode, called one after the other."""
    model = head.model.eval()
    with torch.no_grad():
        gated = model.meta.feature_gate(v)
        first = model.meta.bank(gated.unbind(0)), model.meta.gates(v), model.meta.self_gates(v)
        states = torch.einsum("kbe,ebd->kbd", first[1] + first[2], first[0])
        of_task = states[:-1][model.group_of]
        gate_input = torch.cat([of_task, states[-1:].expand_as(of_task)], 2)
        gated = model.task.feature_gate(torch.cat([states[-1:], states[:-1], of_task]))
        second = model.task.bank(gated.unbind(0)), model.task.gates(gate_input), model.task.self_gates(gate_input)
    return first, second


def test_experts_and_gates_of_home_against_loops():
    head, anatomy, _ = make_head("home", dropout=0.5)
    v, *rest = make_rows(head, 40)
    found = measured(head, anatomy, (v, *rest))
    for n, (outputs, gates, own) in enumerate(home_by_hand(head, v)):
        for e, out in enumerate(outputs.double()):
            flat = out.flatten().tolist()
            mean = sum(flat) / len(flat)
            assert found[f"{n}.mean"][e] == pytest.approx(mean, abs=1e-6)
            assert found[f"{n}.std"][e] == pytest.approx(math.sqrt(sum((x - mean) ** 2 for x in flat) / len(flat)), rel=1e-4)
            assert found[f"{n}.zero_rate"][e] == sum(abs(x) <= 1e-6 for x in flat) / len(flat)
            edges = EDGES.tolist()
            for b in range(len(edges) + 1):
                low, high = ([-math.inf, *edges][b], [*edges, math.inf][b])
                assert found[f"{n}.histogram"][e][b] * len(flat) == pytest.approx(sum(low < x <= high for x in flat))
            for other in range(e):
                gap = (out - outputs[other]).square().sum() / (out.square().sum() + outputs[other].square().sum())
                assert found[f"{n}.distance"][e, other] == pytest.approx(float(gap), abs=1e-4)
        norms = outputs.norm(dim=2)
        for k, of_gate in enumerate(gates.double()):
            assert found[f"{n}.weight"][k] == pytest.approx(of_gate.mean(0).numpy(), abs=1e-6)
            assert found[f"{n}.weight_std"][k] == pytest.approx(of_gate.std(0, correction=0).numpy(), abs=1e-5)
            entropies = [-sum(w * math.log(w) for w in row if w) for row in of_gate.tolist()]
            assert found[f"{n}.entropy"][k] == pytest.approx(sum(entropies) / len(entropies), abs=1e-5)
            share = torch.stack([((gates + own)[k, :, e] * norms[e]).mean() for e in range(len(outputs))])
            assert found[f"{n}.contribution"][k] == pytest.approx((share / share.sum()).numpy(), abs=1e-5)
            for other in range(k):
                pair = [(gates[i].double() - gates[i].double().mean(0)).flatten() for i in (k, other)]
                expected = torch.corrcoef(torch.stack([p - 0 for p in pair]))[0, 1]
                assert found[f"{n}.correlation"][k, other] == pytest.approx(float(expected), abs=1e-4)
        assert found[f"{n}.self_weight"] == pytest.approx(own.mean(1).numpy(), abs=1e-6)


def test_feature_gates_by_feature():
    head, anatomy, _ = make_head("home")
    v, *rest = make_rows(head, 30)
    with torch.no_grad():
        scale = head.model.meta.feature_gate.scale(v)
    found = measured(head, anatomy, (v, *rest))
    for i, columns in enumerate(head.features.columns().values()):
        for group in range(len(scale)):
            assert found["0.scale"][group, i] == pytest.approx(float(scale[group][:, columns].mean()), abs=1e-6)
    assert found["0.scale_distance"] == pytest.approx((scale.mean(1) - 1).abs().mean(1).numpy(), abs=1e-6)
    assert found["1.scale"].shape == (6, 5)  # units of states, which have no names


def test_gradients_of_tasks_against_backward():
    head, anatomy, _ = make_head("cgc", shared_experts=2, task_experts=2)
    head.weighting.fixed.copy_(torch.tensor([1.0, 0.5, 2.0]))
    v, dense, labels, weights = make_rows(head, 25)
    found = measured(head, anatomy, (v, dense, labels, weights))
    bank = anatomy.parts[0].bank
    by_task, inputs = [], []
    for k in range(3):
        leaf = v.clone().requires_grad_()
        head.zero_grad()
        logits = head.logits(leaf, dense, None)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, k], labels[:, k], weight=weights[:, k])
        (loss * head.weighting.fixed[k]).backward()
        by_task.append([torch.cat([p.grad[e].flatten() for p in bank.parameters()]) for e in range(bank.total)])
        inputs.append(leaf.grad.flatten())
    for e in range(bank.total):
        for k in range(3):
            assert found["0.task_gradient"][k, e] == pytest.approx(float(by_task[k][e].norm()), rel=1e-4, abs=1e-9)
        assert found["0.gradient"][e] == pytest.approx(float(sum(by_task[k][e] for k in range(3)).norm()), rel=1e-4)
    # Experts of another task get none; the last two are shared.
    assert found["0.task_gradient"][0, 2:6].tolist() == [0] * 4
    shared = [torch.cat(g[-2:]) for g in by_task]
    cosine = torch.nn.functional.cosine_similarity
    assert found["shared_cosine"][0, 2] == pytest.approx(float(cosine(shared[0], shared[2], dim=0)), abs=1e-4)
    assert found["input_cosine"][1, 2] == pytest.approx(float(cosine(inputs[1], inputs[2], dim=0)), abs=1e-4)
    norms = [float(g.norm()) * len(labels) for g in inputs]
    assert found["input_norm"] == pytest.approx(norms, rel=1e-4)
    assert found["positives"] == pytest.approx(((weights * labels).sum(0) / weights.sum(0)).numpy())
    head.zero_grad()


@pytest.mark.parametrize("kind", list(MODELS))
def test_looking_changes_nothing_and_works_for_every_kind(kind):
    """Parameters, running averages, modes, random numbers and gradients stay as they are; nothing is left on the modules."""
    head, anatomy, _ = make_head(kind, dropout=0.3)
    rows = make_rows(head, 20)
    head.train()
    loss = head.logits(rows[0], rows[1], None).sum()
    loss.backward()
    before = {name: value.clone() for name, value in head.state_dict().items()}
    kept = {name: p.grad.clone() for name, p in head.named_parameters() if p.grad is not None}
    attributes = {m: dict(m.__dict__) for m in head.modules()}
    modes = [m.training for m in head.modules()]
    state = torch.get_rng_state()
    found = measured(head, anatomy, rows)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in head.state_dict().items())
    assert all(torch.equal(kept[name], p.grad) for name, p in head.named_parameters() if p.grad is not None)
    assert [m.training for m in head.modules()] == modes
    assert {m: dict(m.__dict__) for m in head.modules()}.keys() == attributes.keys()
    assert all(set(m.__dict__) == set(attributes[m]) for m in head.modules())
    assert all(not m._forward_hooks for m in head.modules())
    assert all(bool((x == x).all()) for x in found.values())
    assert found["input_cosine"].shape == (3, 3)
    for n, part in enumerate(anatomy.parts):
        assert found[f"{n}.mean"].shape == (len(part.experts),)
        assert (f"{n}.weight" in found) == bool(part.gates)


def test_two_halves_add_up_to_the_whole():
    head, anatomy, _ = make_head("home")
    v, *_ = make_rows(head, 30)
    whole = figures(joined(statistics(head, anatomy, v)), anatomy, head.features.columns())
    halves = joined(statistics(head, anatomy, v[:11]), statistics(head, anatomy, v[11:]))
    for name, value in figures(halves, anatomy, head.features.columns()).items():
        assert value == pytest.approx(whole[name], abs=1e-5), name


def _rank(rank, folder):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    head, anatomy, _ = make_head("home")
    v, *_ = make_rows(head, 30)
    torch.save(over_ranks(statistics(head, anatomy, v[:11] if rank else v[11:])), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.distributed
def test_ranks_have_the_sums_of_all(tmp_path):
    spawn(_rank, 2, str(tmp_path))
    head, anatomy, _ = make_head("home")
    whole = over_ranks(statistics(head, anatomy, make_rows(head, 30)[0]))
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found.keys() == whole.keys()
        for name, value in found.items():
            torch.testing.assert_close(value, whole[name], rtol=1e-4, atol=1e-4)


def test_no_samples_on_any_rank():
    head, anatomy, _ = make_head("home")
    rows = make_rows(head, 1)
    sums = statistics(head, anatomy, rows[0]) | gradients(head, anatomy, *rows)
    nothing = {name: torch.zeros_like(value).double() for name, value in sums.items()}
    found = figures(nothing, anatomy, head.features.columns())
    assert all(bool((x == x).all()) for x in found.values())


def test_dead_and_saturated_units():
    head, anatomy, _ = make_head("mmoe", experts=3)
    bank: ExpertBank = anatomy.parts[0].bank
    with torch.no_grad():
        bank.weights[-1][0, 1:3], bank.biases[-1][0, 1:3] = 0, torch.tensor([0.0, 3.0])  # one dead unit, one stuck at 3
        bank.biases[-1][2] = -1000
    found = measured(head, anatomy, make_rows(head, 50))
    assert found["0.dead_units"][0] >= 0.2
    assert found["0.saturation"][0] >= 0.4
    assert found["0.zero_rate"][2] == 1
    assert found["0.dead_units"][2] == 1
    assert found["0.saturation"][1] < 1


def test_what_fails_within_a_watch_is_undone():
    head, anatomy, _ = make_head("home")
    head.train()
    with pytest.raises(RuntimeError, match="on purpose"), watched(head, anatomy):
        raise RuntimeError("on purpose")
    assert head.model.training
    assert "forward" not in anatomy.parts[0].bank.__dict__
