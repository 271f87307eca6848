"""Each kind against its loop reference: losses, gradients, predictions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from home_dist.config import RunConfig
from home_dist.errors import ConfigError
from home_dist.objectives import Objectives
from home_dist.schema import LabelValues, TaskSpec
from tests.objectives import reference

FACTS = LabelValues(
    mean=7.5,
    std=11.0,
    log_mean=1.6,
    log_std=0.9,
    thresholds=(0.5, 2.0, 3.5, 20.0, 60.0),
    above=(0.9, 0.7, 0.5, 0.2, 0.01),
    duration_boundaries=(8.0, 30.0),
    quantiles=((0.0, 0.0, 1.0, 4.0, 9.0), (0.0, 2.0, 2.0, 2.0, 28.0), (1.0, 5.0, 9.0, 40.0, 300.0)),
    shares=(0.5, 0.3, 0.2),
)
KINDS = {
    "binary": {"kind": "binary"},
    "smoothed": {"kind": "binary", "label_smoothing": 0.2},
    "focal": {"kind": "binary", "focal_gamma": 2.0, "label_smoothing": 0.1},
    "squared": {"kind": "regression"},
    "huber": {"kind": "regression", "loss": "huber", "delta": 0.4, "transform": "log1p"},
    "quantile": {"kind": "regression", "loss": "quantile", "quantile": 0.8},
    "d2q": {"kind": "duration_quantile"},
    "wlr": {"kind": "weighted_logistic", "negatives": "unwatched"},
    "wlr_all": {"kind": "weighted_logistic"},
    "cread": {"kind": "ordinal", "restore": 0.7, "order": 0.3, "delta": 0.5},
    "classes": {"kind": "multiclass", "label_smoothing": 0.1},
}


def config_of(objectives: dict) -> RunConfig:
    return RunConfig.model_validate({"run": {"dir": "r"}, "data": {"path": "d"}, "objective": objectives})


def task(name: str, facts: LabelValues | None = FACTS) -> TaskSpec:
    return TaskSpec(name=name, group="g", column=name, duration="length", classes=3, values=facts)


def objectives_of(names: list[str]) -> Objectives:
    return Objectives([task(n) for n in names], config_of({n: KINDS[n] for n in names})).double()


def expected(name: str, z: list[float], y: float, duration: float) -> float:
    options = KINDS[name]
    match options["kind"]:
        case "binary":
            return reference.binary(z, y, options.get("label_smoothing", 0), options.get("focal_gamma", 0))
        case "regression":
            loss, transform = options.get("loss", "squared"), options.get("transform", "identity")
            return reference.regression(z, y, FACTS, loss, transform, options.get("delta", 1), options.get("quantile", 0.5))
        case "duration_quantile":
            return reference.duration_quantile(z, y, duration, FACTS)
        case "weighted_logistic":
            return reference.weighted_logistic(z, y, FACTS.mean, options.get("negatives", "all"))
        case "ordinal":
            return reference.ordinal(z, y, FACTS, options["restore"], options["order"], options["delta"])
        case _:
            return reference.multiclass(z, y, options["label_smoothing"])


def expected_values(name: str, z: list[float], duration: float) -> list[float]:
    match KINDS[name]["kind"]:
        case "binary":
            return [reference.sigmoid(z[0])]
        case "regression":
            return [reference.regression_value(z, FACTS, KINDS[name].get("transform", "identity"))]
        case "duration_quantile":
            return [reference.duration_quantile_value(z, duration, FACTS)]
        case "weighted_logistic":
            return [FACTS.mean * math.exp(z[0])]
        case "ordinal":
            return [reference.ordinal_value(z, FACTS)]
        case _:
            return reference.softmax(z)


def label(name: str, number: float) -> float:
    """A label of the task's kind, made of a number of at least 0."""
    if KINDS[name]["kind"] == "binary":
        return float(number > 5)
    return float(int(number) % 3) if name == "classes" else number


numbers = st.one_of(st.sampled_from([0.0, 1.0, 2.0, 4.0, 20.0, 300.0, 5000.0]), st.floats(0, 100))


@given(
    names=st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=7, unique=True),
    ys=st.lists(numbers, min_size=4, max_size=4),
    durations=st.lists(st.sampled_from([0.5, 7.999, 8.0, 20.0, 30.0, 600.0]), min_size=4, max_size=4),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_losses_gradients_and_predictions(names, ys, durations, seed):
    objectives = objectives_of(names)
    draw = np.random.default_rng(seed)
    logits = torch.from_numpy(draw.normal(0, 2, (4, sum(objectives.outputs)))).requires_grad_()
    labels = torch.tensor([[label(n, y) for n in names] for y in ys], dtype=torch.float64)
    columns = torch.tensor(durations, dtype=torch.float64)[:, None]
    weights = torch.ones_like(labels)
    losses = objectives.losses(logits, labels, weights, columns)
    pull = torch.from_numpy(draw.normal(0, 1, losses.shape))
    [gradient] = torch.autograd.grad((losses * pull).sum(), logits)
    predicted = objectives.predicted(logits.detach(), columns)
    starts = np.cumsum([0, *objectives.outputs])
    places = np.cumsum([0, *objectives.predictions])
    for b in range(4):
        for k, name in enumerate(names):
            z, y = logits[b, starts[k] : starts[k + 1]].tolist(), labels[b, k].item()
            assert losses[b, k].item() == pytest.approx(expected(name, z, y, durations[b]), rel=1e-6, abs=1e-9), name
            got = predicted[b, places[k] : places[k + 1]].tolist()
            assert got == pytest.approx(expected_values(name, z, durations[b]), rel=1e-6, abs=1e-9), name
            for o in range(len(z)):
                step = 1e-6
                sides = [expected(name, [*z[:o], z[o] + s, *z[o + 1 :]], y, durations[b]) for s in (-step, step)]
                slope = (sides[1] - sides[0]) / (2 * step) * pull[b, k].item()
                assert gradient[b, starts[k] + o].item() == pytest.approx(slope, rel=1e-4, abs=1e-6), name


def test_order_of_columns_follows_the_tasks():
    names = ["classes", "binary", "cread", "squared", "d2q"]
    objectives = objectives_of(names)
    assert objectives.outputs == (3, 1, 5, 1, 1)
    assert objectives.names == ("classes_0", "classes_1", "classes_2", "binary", "cread", "squared", "d2q")
    assert objectives.measured == ("class", "binary", "number", "number", "number")


@pytest.mark.parametrize("name", list(KINDS))
def test_start_is_what_a_model_without_inputs_would_predict(name):
    objectives = objectives_of([name])
    [start] = objectives.start(torch.tensor([0.25]))
    predicted = objectives.predicted(start[None].double(), torch.full((1, 1), 20.0, dtype=torch.float64))[0]
    wanted = {
        "binary": [0.25],
        "smoothed": [0.25],
        "focal": [0.25],
        "squared": [7.5],
        "quantile": [7.5],
        "huber": [math.exp(1.6) - 1],
        "d2q": [2.0],
        "wlr": [7.5],
        "wlr_all": [7.5],
        "cread": [0.5 * 0.9 + 1.5 * 0.7 + 1.5 * 0.5 + 16.5 * 0.2 + 40 * 0.01],
        "classes": [0.5, 0.3, 0.2],
    }[name]
    assert predicted.tolist() == pytest.approx(wanted, rel=1e-5)


def test_large_outputs_stay_finite():
    names = list(KINDS)
    objectives = objectives_of(names).float()
    logits = torch.full((2, sum(objectives.outputs)), 1e4) * torch.tensor([[1.0], [-1.0]])
    logits.requires_grad_()
    labels = torch.tensor([[label(n, 5000.0) for n in names]] * 2)
    losses = objectives.losses(logits, labels, torch.ones_like(labels), torch.full((2, 1), 10.0))
    assert torch.isfinite(losses).all()
    [gradient] = torch.autograd.grad(losses.sum(), logits)
    assert torch.isfinite(gradient).all()
    assert torch.isfinite(objectives.predicted(logits.detach(), torch.full((2, 1), 10.0))).all()


def test_a_rank_and_its_quantile_are_inverse():
    objectives = objectives_of(["d2q"])
    inner = objectives._groups[0].objective
    for duration, y in ((4.0, 0.7), (20.0, 15.0), (99.0, 123.0)):
        columns = torch.full((1, 1), duration, dtype=torch.float64)
        place = inner.rank(torch.full((1, 1), y, dtype=torch.float64), columns)
        assert inner.predicted(torch.logit(place)[..., None], columns).item() == pytest.approx(y)


def test_the_odds_of_all_negatives_are_the_mean():
    """The best constant z of the weighted logistic loss gives the mean label, however many are positive."""
    y = torch.tensor([0.0, 3.0, 5.0, 8.0, 20.0], dtype=torch.float64)
    for name, wanted in (("wlr_all", y.mean().item()), ("wlr", y.sum().item())):  # one negative: sum / 1
        objectives = objectives_of([name])
        z = torch.zeros(1, requires_grad=True, dtype=torch.float64)
        descent = torch.optim.LBFGS([z], max_iter=100, tolerance_grad=1e-12, tolerance_change=1e-14)

        def loss(objectives=objectives, z=z, descent=descent) -> torch.Tensor:
            descent.zero_grad()
            logits = z.expand(5)[:, None]
            total = objectives.losses(logits, y[:, None], torch.ones(5, 1), torch.ones(5, 1)).sum()
            total.backward()
            return total

        descent.step(loss)
        assert objectives.predicted(z.detach()[None], torch.ones(1, 1)).item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "facts", "message"),
    [
        ({"kind": "ordinal"}, LabelValues(), "task 't': kind ordinal needs `values.thresholds`"),
        ({"kind": "duration_quantile"}, LabelValues(), "task 't': kind duration_quantile needs `values.quantiles`"),
    ],
)
def test_facts_that_are_missing(options, facts, message):
    with pytest.raises(ConfigError, match=message):
        Objectives([task("t", facts)], config_of({"t": options}))
