"""A step whose loss or gradients are not finite changes nothing; the run ends and tells why, or leaves such steps out."""

import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from home_dist.training.checkpoint.reading import open_stored
from tests.factory import make_config, make_data
from tests.ranks import run, settings

pytestmark = pytest.mark.distributed
SMALL = {"train__seed": 2, "train__epochs": 1, "insight__every_steps": 0, "data__lanes": 2}
SMALL |= {"data__validation": "''", "data__test": "''"}
EVERY = {"checkpoint__every_steps": 1, "checkpoint__keep_last": 100}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four values of 1e30 among 300 rows, with labels that a step may happen to predict, but not all of them."""
    folder = make_data(tmp_path_factory.mktemp("data") / "data", rows=300, files=1, splits=("train",))
    path = folder / "train" / "part-00000.parquet"
    table = pq.read_table(path)
    columns = {name: table.column(name).to_pylist() for name in ("age", "like")}
    for number, row in enumerate((57, 130, 200, 270)):
        columns["age"][row], columns["like"][row] = 1e30, number % 2
    for name, values in columns.items():
        field = table.schema.field(name)
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, field.type))
    pq.write_table(table, path, row_group_size=50)
    return folder


def stored(folder, step):
    return open_stored(folder / "run" / "checkpoints" / f"step-{step:08d}")[0]


def finite(one):
    return all(torch.isfinite(one.whole(name).double()).all() for name in one.tensors)


def apart(one, other):
    """Names of tensors that differ, the counters of steps left out."""
    return [n for n in one.tensors if not n.endswith("/steps") and not torch.equal(one.whole(n), other.whole(n))]


def refused_steps(text):
    return [int(step) for step in re.findall(r"note: step (\d+): .*? not finite", text)]


@pytest.mark.parametrize(
    ("ranks", "options"),
    [
        (1, {"embedding__optimizer": "adagrad", "train__clip_norm": 1.0}),
        (2, {"embedding__tables__tag__sharding": "data_parallel", "embedding__tables__video__sharding": "row_wise"}),
        pytest.param(1, {"embedding__replicate_rows": 5000, "model__kind": "mmoe"}, marks=pytest.mark.slow),
        pytest.param(
            2,
            {"embedding__optimizer": "sgd", "kernel__precision": "bf16", "distributed__exchange__backward": "fp16"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_step_that_is_left_out_changes_nothing(ranks, options, data, tmp_path):
    config = make_config(tmp_path, data, batch_size=16)
    ended = run(ranks, "train", config, *settings(**SMALL, **EVERY, train__on_nonfinite="skip", **options))
    assert ended.codes == [0] * ranks, ended.text
    refused = [step for step in refused_steps(ended.text) if step > 1]
    assert refused
    assert "age = 3.333e+29" in ended.text
    assert "nan" not in ended.text
    for step in refused:
        assert apart(stored(tmp_path, step - 1), stored(tmp_path, step)) == []
    others = [n for n in range(2, 10) if n not in refused]
    assert all(len(apart(stored(tmp_path, n - 1), stored(tmp_path, n))) > 5 for n in others)
    last = max(int(p.name.split("-")[1]) for p in (tmp_path / "run" / "checkpoints").glob("step-*"))
    assert finite(stored(tmp_path, last))


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_run_ends_with_step_tasks_and_values(ranks, data, tmp_path):
    config = make_config(tmp_path, data, batch_size=16)
    ended = run(ranks, "train", config, *settings(**SMALL, **EVERY))
    assert ended.codes == [6] * ranks, ended.text
    assert len(re.findall(r"^error: ", ended.text, re.MULTILINE)) == 1
    step, row = re.search(r"error: step (\d+): .*? not finite\..*?sample (\d+)", ended.text).groups()
    assert int(row) < 16
    values = r"Largest values of its batch: age = 3.333e\+29 \(rank \d, sample \d+ of its batch, group \d+\); "
    assert re.search(values, ended.text)
    newest = max((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert newest.name == f"step-{int(step) - 1:08d}"
    assert str(newest) in ended.text
    assert finite(stored(tmp_path, int(step) - 1))
    # The same command ends at the same step; what is told to be left out is, from the checkpoint on.
    again = run(ranks, "train", config, *settings(**SMALL, **EVERY))
    assert f"error: step {step}:" in again.text
    assert run(ranks, "train", config, *settings(**SMALL, **EVERY, train__on_nonfinite="skip")).codes == [0] * ranks


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "precision"), [(1, "fp32"), (2, "bf16")])
def test_an_update_is_of_the_steps_that_are_finite(ranks, precision, data, tmp_path):
    """With accumulation: the update takes place, and ranks hold the same."""
    config = make_config(tmp_path, data, batch_size=16)
    options = {**EVERY, "checkpoint__every_steps": 3, "train__accumulate": 3, "kernel__precision": precision}
    ended = run(ranks, "train", config, *settings(**SMALL, **options, train__on_nonfinite="skip"))
    assert ended.codes == [0] * ranks, ended.text
    refused = refused_steps(ended.text)
    assert refused
    for last in range(6, 10, 3):
        changed = apart(stored(tmp_path, last - 3), stored(tmp_path, last))
        assert len(changed) > 20, last
    newest = max(int(p.name.split("-")[1]) for p in (tmp_path / "run" / "checkpoints").glob("step-*"))
    assert finite(stored(tmp_path, newest))


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_learning_rate_that_is_far_too_large(ranks, data, tmp_path):
    config = make_config(tmp_path, data, batch_size=16)
    options = {**SMALL, **EVERY, "train__epochs": 3, "train__lr": 1e6, "embedding__lr": 1e30, "embedding__optimizer": "sgd"}
    ended = run(ranks, "train", config, *settings(**options, data__exclude="['age']"))
    assert ended.codes == [6] * ranks, ended.text
    assert "lower train.lr or embedding.lr" in ended.text
    newest = max(int(p.name.split("-")[1]) for p in (tmp_path / "run" / "checkpoints").glob("step-*"))
    assert finite(stored(tmp_path, newest))
