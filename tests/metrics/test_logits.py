"""Metrics are of logits: probabilities near 1 round to the same number, and to 1."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from home_dist.config import MetricsSection
from home_dist.evaluation import split as evaluation
from home_dist.export.program import Program
from home_dist.metrics import calibration_curve, evaluate_slices, evaluate_tasks, expected_calibration_error, log_loss
from home_dist.network import StepOutput
from home_dist.training.running_metrics import Running

LOGITS = np.linspace(16.7, 25, 50, dtype=np.float32)
YES = SimpleNamespace(measured=("binary",), predictions=(1,))
LABELS = (np.arange(50) >= 20).astype(np.float32)


class _Fixed(nn.Module):
    def forward(self, batch):
        return None, SimpleNamespace(scores=batch.logits)


@pytest.fixture
def batches():
    """A reader of one batch of the logits."""
    rows = torch.ones(50, 1)
    batch = SimpleNamespace(
        logits=torch.from_numpy(LOGITS)[:, None],
        labels=torch.from_numpy(LABELS)[:, None],
        weights=rows,
        mask=rows[:, 0],
        groups=torch.arange(50) % 2,
        small=torch.zeros(50, 1, dtype=torch.int64),
        requests=torch.zeros(0, dtype=torch.int64),
        to=lambda _: batch,
    )
    return SimpleNamespace(epoch=lambda _: iter([batch]), reads_requests=False)


@pytest.fixture
def process_group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_wrong_label_costs_its_logit():
    assert log_loss([0], [17.0], logits=True) == pytest.approx(17.0, abs=1e-6)
    assert log_loss([1], [-800.0], logits=True) == pytest.approx(800.0)
    assert log_loss([0, 1], [-40.0, 40.0], logits=True) == pytest.approx(np.exp(-40.0))


def test_equal_those_of_probabilities_where_these_do_not_round():
    draw = np.random.default_rng(0)
    logits, labels = draw.normal(0, 2, (400, 2)), draw.integers(0, 2, (400, 2))
    weights, groups = draw.uniform(0, 2, (400, 2)), draw.integers(0, 30, 400)
    of_logits = evaluate_tasks(["a", "b"], labels, weights, logits, groups, logits=True)
    of_scores = evaluate_tasks(["a", "b"], labels, weights, 1 / (1 + np.exp(-logits)), groups)
    for one, other in zip(of_logits, of_scores, strict=True):
        for curves in zip(vars(one.curve).values(), vars(other.curve).values(), strict=True):
            np.testing.assert_allclose(*curves, rtol=1e-12)
        expected = replace(other, curve=one.curve)
        assert vars(one) == {
            k: pytest.approx(v, rel=1e-12, nan_ok=True) if isinstance(v, int | float) else v for k, v in vars(expected).items()
        }
    [part] = evaluate_slices(["x"], np.ones((400, 1), np.int64), ["a", "b"], labels, weights, logits, groups, logits=True)
    assert repr(part.tasks) == repr(of_logits)  # nan among them
    assert expected_calibration_error(labels[:, 0], logits[:, 0], logits=True) == pytest.approx(
        expected_calibration_error(labels[:, 0], 1 / (1 + np.exp(-logits[:, 0])))
    )
    assert len(calibration_curve(LABELS, LOGITS, logits=True).weight) == 20


def test_an_evaluation_keeps_the_order_of_high_logits(batches):
    ranks = SimpleNamespace(device="cpu", rank=0, world_size=1)
    schema = SimpleNamespace(task=[SimpleNamespace(name="like")], group_column="user", table=[])
    layout = SimpleNamespace(at=lambda _: [SimpleNamespace(key="tab")], features=[])
    config = SimpleNamespace(metrics=MetricsSection(slices=["tab"], slice_rows=1))
    found = evaluation.evaluate(SimpleNamespace(model=_Fixed(), objectives=YES), batches, schema, layout, config, ranks)
    [task] = found.tasks
    assert (task.auc, task.gauc) == (1.0, 1.0)
    assert task.log_loss == pytest.approx(float(LOGITS[:20].astype(np.float64).sum() / 50), rel=1e-6)
    assert found.slices[0].tasks[0].auc == 1.0
    assert len(np.unique(found.scored.predictions)) == 50


@pytest.mark.usefixtures("process_group")
def test_running_metrics_keep_it_too():
    running, nothing = Running(YES, 64, 1, 0, torch.device("cpu")), torch.zeros(())
    columns = torch.from_numpy(LOGITS)[:, None], torch.from_numpy(LABELS)[:, None], torch.ones(50, 1)
    running.add(StepOutput(*columns, nothing, nothing, nothing, 0, 1))
    exact = evaluate_tasks(["like"], LABELS[:, None], np.ones((50, 1)), LOGITS[:, None], logits=True)[0]
    told = running.close()
    assert told["auc"] == [1.0]
    assert told["normalized_entropy"] == [pytest.approx(exact.normalized_entropy, rel=1e-6)]


def test_an_exported_program_is_measured_by_its_logits():
    class Scores(nn.Module):
        def forward(self, inputs):
            return torch.sigmoid(inputs["x"] * 1.0)

    logits = torch.from_numpy(LOGITS)[:, None]
    run = torch.export.export(Scores(), ({"x": logits},)).module()
    program = Program(run, [], ["like"], {}, None)
    assert torch.equal(program.of_logits().run({"x": logits}), logits)
    assert len(torch.unique(program.run({"x": logits}))) < 50  # what it gives to its users stays as it is
