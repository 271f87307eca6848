"""SMES against a reference written from the equations: loops over samples, tasks and experts, in float64."""

from pathlib import Path

import pytest
import torch

from home_dist.config import load_config
from home_dist.errors import ConfigError
from home_dist.experts import first_largest
from tests.models.reference import GROUPINGS, D, F, compare, grid, make
from tests.on_ranks import on_ranks


def largest(values: list[float], count: int, left: list[int]) -> list[int]:
    return sorted(left, key=lambda e: (-values[e], e))[:count]


def scores_of(model, x) -> list[torch.Tensor]:
    return [weight @ x for weight in model.gates.weight]


def choices(model, scores) -> tuple[list[int], list[list[int]]]:
    """scores: (E,) per task."""
    experts = list(range(model.bank.total))
    p = [torch.softmax(z, 0).tolist() for z in scores]
    joint = [0.0] * len(experts)
    for w, p_t in zip(model.choice_weights, p, strict=True):  # in order, also where Python's sum() makes up for rounding
        joint = [j + float(w) * p_t[e] for j, e in zip(joint, experts, strict=True)]
    shared = largest(joint, model.shared_choices, experts)
    left = [e for e in experts if e not in shared]
    return shared, [largest(z.tolist(), model.task_choices, left) for z in scores]


def reference(model):
    def rows(v, mask):
        gated = v
        if model.feature_gate is not None:
            gated = list(model.feature_gate(torch.stack(v))[0])  # tested on its own
        tasks = range(len(model.gates.weight))
        chosen = [choices(model, scores_of(model, x)) for x in v]
        used = [{*shared, *(e for of_task in own for e in of_task)} for shared, own in chosen]
        bank, out = model.bank, [{} for _ in v]
        for e in range(bank.total):
            users = [b for b in range(len(v)) if e in used[b]]
            states = []
            for b in users:
                x = gated[b]
                for n, weight in enumerate(bank.weights):
                    x = weight[e] @ x
                    x = x + bank.biases[n][e] if n < len(bank.biases) else x
                    x = torch.clamp(x, min=0) if n < len(bank.weights) - 1 or bank.norm is None else x
                states.append(x)
            if bank.norm is not None:
                real = [x for b, x in zip(users, states, strict=True) if mask[b]]
                mean = sum(real) / len(real) if real else torch.zeros(D, dtype=torch.float64)
                variance = sum((x - mean) ** 2 for x in real) / len(real) if real else torch.zeros(D, dtype=torch.float64)
                states = [(x - mean) / torch.sqrt(variance + 1e-5) * bank.norm.weight[e] + bank.norm.bias[e] for x in states]
                states = [x * torch.sigmoid(x) for x in states]
            for b, x in zip(users, states, strict=True):
                out[b][e] = x
        mixed = []
        for t in tasks:
            of_task = []
            for b, x in enumerate(v):
                shared, own = chosen[b]
                grown = {e: torch.exp(model.gates.weight[t, e] @ x) for e in [*shared, *own[t]]}
                weights = {e: g / sum(grown.values()) for e, g in grown.items()}
                if model.self_gates is not None:
                    scores = {e: model.self_gates.weight[t, e] @ x for e in own[t]}
                    total = sum(torch.exp(s) for s in scores.values())
                    for e, s in scores.items():
                        weights[e] = weights[e] + (torch.sigmoid(s) if len(scores) == 1 else torch.exp(s) / total)
                of_task.append(sum(w * out[b][e] for e, w in weights.items()))
            mixed.append(of_task)
        return mixed

    return rows


@pytest.mark.parametrize("group_of", GROUPINGS)
@pytest.mark.parametrize(("shared", "own"), [(2, 1), (1, 2), (0, 2), (3, 0)])
def test_is_the_equations(group_of, shared, own):
    model = make("smes", group_of, experts=6, shared_choices=shared, task_choices=own, balance=0.0)
    compare(model, reference(model), len(group_of))


@pytest.mark.parametrize(("norm", "gate", "self_gate"), grid([False, True], [False, True], [False, True]))
@pytest.mark.parametrize("own", [1, 2])
def test_with_the_parts_of_home(norm, gate, self_gate, own):
    parts = {"expert_norm": norm, "feature_gate": gate, "self_gate": self_gate, "balance": 0.0}
    model = make("smes", (0, 1, 0), experts=5, shared_choices=1, task_choices=own, **parts)
    compare(model, reference(model), 3)


def test_tasks_weigh_in_the_choice_for_all():
    plain = make("smes", (0, 1), experts=6, shared_choices=2)
    tilted = make("smes", (0, 1), experts=6, shared_choices=2, choice_weights={"task 1": 1e6})
    v = torch.randn(40, F, dtype=torch.float64)
    scores = tilted.gates.scores(v)
    alone = first_largest(scores[1], 2)
    assert torch.equal(tilted._choose(scores, scores.softmax(-1))[0, :, :2], alone)
    assert not torch.equal(plain._choose(scores, scores.softmax(-1))[0, :, :2], alone)


def test_equal_values_choose_the_lower_number():
    """A new router may have equal scores: the choice is the same everywhere."""
    assert first_largest(torch.tensor([[1.0, 3, 3, 2, 3], [0, 0, 0, 0, 0]]), 3).tolist() == [[1, 2, 4], [0, 1, 2]]
    model = make("smes", (0, 1, 0), experts=6, shared_choices=2, task_choices=2)
    scores = torch.randint(0, 3, (3, 200, 6)).double()  # full of ties
    scores[:, 0] = 1
    chosen = model._choose(scores, scores.softmax(-1))
    for b in range(200):
        shared, own = choices(model, scores[:, b])
        assert chosen[:, b].tolist() == [[*shared, *of_task] for of_task in own]
    assert chosen[:, 0].tolist() == [[0, 1, 2, 3]] * 3


def balance_of(model, v, mask) -> float:
    experts, tasks, real = model.bank.total, len(model.gates.weight), [x for x, m in zip(v, mask, strict=True) if m]
    chose, mean = [0.0] * experts, [0.0] * experts
    for x in real:
        shared, own = choices(model, scores_of(model, x))
        for t, p in enumerate(torch.softmax(z, 0).tolist() for z in scores_of(model, x)):
            for e in [*shared, *own[t]]:
                chose[e] += 1 / (len(real) * tasks)
            mean = [m + q / (len(real) * tasks) for m, q in zip(mean, p, strict=True)]
    chosen = model.shared_choices + model.task_choices
    return experts / chosen * sum(f * p for f, p in zip(chose, mean, strict=True))


def test_load_balance_is_the_equation_and_has_a_gradient():
    model = make("smes", (0, 1, 1), experts=6, balance=0.3)
    v, mask = torch.randn(9, F, dtype=torch.float64), torch.tensor([1.0] * 7 + [0, 0], dtype=torch.float64)
    model(v, mask)
    loss = model.auxiliary()["load_balance"]
    assert float(loss.detach()) == pytest.approx(0.3 * balance_of(model, v, mask), rel=1e-12)
    (grad,) = torch.autograd.grad(loss, [model.gates.weight])
    step = 1e-6 * torch.randn_like(grad)
    after = []
    for sign in (1, -1):  # the choice stays, as the step is small
        with torch.no_grad():
            model.gates.weight.add_(step, alpha=sign)
        model(v, mask)
        after.append(float(model.auxiliary()["load_balance"].detach()))
        with torch.no_grad():
            model.gates.weight.sub_(step, alpha=sign)
    assert after[0] - after[1] == pytest.approx(float(2 * (grad * step).sum()), rel=1e-4)
    model.eval()(v, mask)
    assert model.auxiliary() == {}


def test_even_choices_have_a_balance_of_one():
    model = make("smes", (0, 1), experts=6, balance=1.0)
    with torch.no_grad():
        model.gates.weight.zero_()  # even probabilities, whatever is chosen
    model(torch.randn(8, F, dtype=torch.float64))
    assert float(model.auxiliary()["load_balance"].detach()) == pytest.approx(1)


def _body(rank: int, world: int, folder: Path) -> None:
    rows = slice(0, 5) if rank == 0 else slice(5, None)
    torch.save(_results(rows), f"{folder}/{rank}.pt")


def _results(rows: slice) -> dict[str, torch.Tensor]:
    model = make("smes", (0, 1, 1), experts=6, balance=0.3, expert_norm=True)
    generator = torch.Generator().manual_seed(3)
    v, pull = (torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in ((13, F), (3, 13, D)))
    mask = torch.ones(13, dtype=torch.float64)
    mask[-2:] = 0
    out = model(v[rows], mask[rows])
    loss = (out * pull[:, rows] * mask[rows].view(1, -1, 1)).sum() + model.auxiliary()["load_balance"] * 11
    loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    return {"out": out.detach(), "balance": model.auxiliary()["load_balance"].detach(), **grads}


@pytest.mark.distributed
def test_two_ranks_equal_one(tmp_path: Path):
    """Loss and gradients are means over ranks of the load balance, and sums of the rest."""
    on_ranks(_body, 2, tmp_path)
    one, two = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    whole = _results(slice(None))
    torch.testing.assert_close(torch.cat([one["out"], two["out"]], 1), whole["out"], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close((one["balance"] + two["balance"]) / 2, whole["balance"], rtol=1e-12, atol=0)
    for name in whole.keys() - {"out", "balance", "gates.weight"}:
        torch.testing.assert_close(one[name] + two[name], whole[name], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["model.experts=2"], r"shared_choices \+ task_choices is 3: choose at least 1 and at most experts = 2 in all"),
        (["model.shared_choices=0", "model.task_choices=0"], r"is 0: choose at least 1"),
        (["model.self_gate=true", "model.task_choices=0"], "self_gate needs experts that a task chooses"),
        (["model.choice_weights.like=-1"], "choice_weights must not be negative"),
    ],
)
def test_wrong_keys_are_refused(changes, message, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('[run]\ndir = "x"\n[data]\npath = "y"\n[model]\nkind = "smes"\n')
    with pytest.raises(ConfigError, match=message):
        load_config(file, changes)
