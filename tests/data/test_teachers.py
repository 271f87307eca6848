"""Teachers' predictions beside labels: what training reads of them, and what losses are of."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from home_dist.config import load_config
from home_dist.data.inputs import open_inputs
from home_dist.distributed.ranks import Ranks
from home_dist.errors import ConfigError, DataError
from home_dist.objectives import Objectives
from home_dist.schema import load_schema
from tests.factory import make_config, make_data

ROWS = 300
ONE = Ranks(rank=0, local_rank=0, world_size=1, local_world_size=1, device=torch.device("cpu"), backend="gloo", threads=1)


def taught(folder, **columns):
    """Data whose training files also have these columns, (ROWS,) each."""
    data = make_data(folder / "data", rows=ROWS, files=1)
    [path] = (data / "train").glob("*.parquet")
    table = pq.read_table(path)
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    pq.write_table(table, path, row_group_size=100)
    return data


def inputs_of(folder, data, *overrides):
    config = load_config(make_config(folder, data), ["train.distillation.weight=0.25", *overrides])
    return open_inputs(config, load_schema(data / "schema.toml"))


def random(seed):
    return np.random.default_rng(seed).random(ROWS)


def test_losses_are_of_labels_moved_to_the_teacher(tmp_path):
    like, watch = random(0), random(1)
    without = random(2) < 0.3
    data = taught(tmp_path, t_like=pa.array(like, mask=without), t_watch=watch.astype(np.float32))
    inputs = inputs_of(tmp_path, data, "train.distillation.prefix='t_'", "train.distillation.tasks=['watch', 'like']")
    table = pq.read_table(data / "train")
    expected = np.stack([table[t].to_numpy().astype(float) for t in ("like", "follow", "watch")], 1)
    expected[:, 0] = np.where(without, expected[:, 0], 0.75 * expected[:, 0] + 0.25 * like)
    expected[:, 2] = 0.75 * expected[:, 2] + 0.25 * watch
    objectives = Objectives(inputs.schema.task, inputs.config)
    found = []
    for batch in inputs.training_reader(ONE).epoch(0):
        real = batch.mask.bool()
        targets = objectives.taught(batch.labels, batch.teachers)
        found.append(np.hstack([targets[real].numpy(), batch.dense[real].numpy()]))
        z, weights = torch.randn(batch.size, 3), torch.ones(batch.size, 3)
        losses = objectives.losses(z, batch.labels, weights, batch.durations, taught=targets)
        p, y = torch.sigmoid(z.double()), targets.double()
        by_hand = -(y * p.log() + (1 - y) * (1 - p).log())
        torch.testing.assert_close(losses.double(), by_hand, rtol=1e-5, atol=1e-5)
    rows = np.concatenate(found)
    order = [np.argsort(column, kind="stable") for column in (rows[:, 4], table["age"].to_numpy())]
    np.testing.assert_allclose(rows[order[0], :3], expected[order[1]], atol=1e-6)


def test_evaluations_read_labels_alone(tmp_path):
    data = taught(tmp_path, **{f"teacher_{t}": random(k) for k, t in enumerate(("like", "follow", "watch"))})
    inputs = inputs_of(tmp_path, data)
    objectives = Objectives(inputs.schema.task, inputs.config)
    [batch] = list(inputs.evaluation_reader("test", ONE).epoch(0))
    assert batch.teachers.shape == (batch.size, 0)
    assert objectives.taught(batch.labels, batch.teachers) is batch.labels


@pytest.mark.parametrize(
    ("value", "told"),
    [(1.5, "1.5 is no probability"), (-0.1, "-0.1 is no probability"), (float("nan"), "nan is no probability")],
)
def test_no_probability_is_refused_by_its_place(value, told, tmp_path):
    values = random(0)
    values[130] = value
    inputs = inputs_of(tmp_path, taught(tmp_path, teacher_like=values), "train.distillation.tasks=['like']")
    with pytest.raises(
        DataError, match=f"column 'teacher_like': a teacher's prediction {told}.*first in row 30 of its row group"
    ):
        list(inputs.training_reader(ONE).epoch(0))


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["train.distillation.tasks=['liked']"], "'liked' is no task of this run; there are: like, follow, watch"),
        (["train.distillation.tasks=['like']", "data.tasks=['watch']"], "'like' is no task of this run; there are: watch"),
        (["data.negatives={keep=0.5, tasks=['like'], correct='logit'}"], "predictions are of all rows, and data.negatives"),
        (["objective.follow.kind=binary", "objective.follow.focal_gamma=2"], "'follow' is of kind binary with focal_gamma"),
        (["objective.watch.kind=ordinal", "train.distillation.tasks=['watch']"], "'watch' is of kind ordinal"),
    ],
)
def test_what_has_no_effect_is_refused(overrides, told, tmp_path):
    data = taught(tmp_path, **{f"teacher_{t}": random(k) for k, t in enumerate(("like", "follow", "watch"))})
    with pytest.raises(ConfigError, match=told):
        inputs_of(tmp_path, data, *overrides)


def test_a_prediction_below_zero_of_a_label_that_is_not_is_zero(tmp_path):
    like = random(0) * 4 - 1
    data = taught(tmp_path, teacher_like=like)
    options = ["objective.like.kind=regression", "objective.like.transform=log1p", "train.distillation.tasks=['like']"]
    batches = list(inputs_of(tmp_path, data, *options).training_reader(ONE).epoch(0))
    found = np.concatenate([b.teachers[b.mask.bool(), 0].numpy() for b in batches])
    np.testing.assert_allclose(np.sort(found), np.sort(np.maximum(like, 0)), rtol=1e-6)


def test_a_missing_teacher_is_told_with_what_to_do(tmp_path):
    data = taught(tmp_path, teacher_like=random(0), teacher_follow=random(1))
    with pytest.raises(DataError, match=r"column 'teacher_watch' is missing; the run's train.distillation needs it.*--prefix"):
        inputs_of(tmp_path, data)
    config = load_config(make_config(tmp_path, data), ["train.distillation.weight=0.25"])
    schema = load_schema(data / "schema.toml")
    evaluated = open_inputs(config, schema, ("train",), trains=False)  # needs none
    assert sum(int(b.mask.sum()) for b in evaluated.evaluation_reader("train", ONE).epoch(0)) == ROWS
