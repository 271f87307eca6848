"""A run learns the mean of others' predictions, with the commands of docs/howto/tasks.md."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.factory import TASKS, make_config, make_data
from tests.ranks import run, settings

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data") / "data", rows=3000, files=2, row_group=500)


def train(folder, data, ranks=1, **options):
    config = make_config(folder, data, batch_size=128 // ranks)
    ended = run(ranks, "train", config, *settings(train__epochs=1, model__kind="shared_bottom", **options))
    assert ended.codes == [0] * ranks, ended.text
    return json.loads((folder / "run" / "evaluation.json").read_text())["test"]


def with_teachers(data, out, predicted):
    """Training files with a column for each task. predicted: of a task's labels, the teacher's predictions."""
    for path in (data / "train").glob("*.parquet"):
        table = pq.read_table(path)
        for task, _ in TASKS:
            column = predicted(table[task].to_numpy().astype(np.float32))
            table = table.append_column(f"teacher_{task}", pa.array(column))
        (data / out).mkdir(exist_ok=True)
        pq.write_table(table, data / out / path.name, row_group_size=500)
    return out


def test_a_teacher_that_says_what_happened_changes_nothing(data, tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "taught").mkdir()
    plain = train(tmp_path / "plain", data, ranks=2)
    same = with_teachers(data, "same", lambda y: y)
    found = train(tmp_path / "taught", data, ranks=2, data__train=same, train__distillation__weight=0.7)
    assert found == plain


def test_a_teacher_that_says_the_opposite_is_believed(data, tmp_path):
    opposite = with_teachers(data, "opposite", lambda y: 1 - y)
    found = train(tmp_path, data, data__train=opposite, train__distillation__weight=1, train__lr=0.02)
    assert all(found[task]["auc"] < 0.45 for task, _ in TASKS), found


def test_the_mean_of_runs_teaches_one(data, tmp_path):
    data = shutil.copytree(data, tmp_path / "data")
    programs = []
    for seed in (0, 1):
        (tmp_path / f"teacher-{seed}").mkdir()
        train(tmp_path / f"teacher-{seed}", data, train__seed=seed)
        programs.append(tmp_path / f"program-{seed}")
        exported = run(1, "export", tmp_path / f"teacher-{seed}" / "run", "--format", "program", "--out", programs[-1])
        assert exported.codes == [0], exported.text
    options = ("--all-columns", "--prefix", "teacher_", "--out", data / "taught")
    ended = run(1, "score", programs[0], data / "train", "--with", programs[1], *options)
    assert ended.codes == [0], ended.text
    of_each = []
    for program in programs:
        ended = run(1, "score", program, data / "train", "--out", tmp_path / f"{program.name}-scores")
        assert ended.codes == [0], ended.text
        of_each.append(pq.read_table(tmp_path / f"{program.name}-scores"))
    taught = pq.read_table(data / "taught")
    assert taught.num_rows == 3000
    for task, _ in TASKS:
        mean = sum(scores[task].to_numpy().astype(np.float64) for scores in of_each) / 2
        np.testing.assert_allclose(taught[f"teacher_{task}"].to_numpy(), mean, atol=1e-7)
    assert taught.drop([f"teacher_{task}" for task, _ in TASKS]).equals(pq.read_table(data / "train"))
    found = train(tmp_path, data, data__train="taught", train__distillation__weight=0.5)
    assert all(found[task]["auc"] > 0.6 for task, _ in TASKS), found
