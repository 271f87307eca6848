"""A run's figures: of the newest checkpoint, of the splits that were asked for, and with the rows that they leave out."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.factory import make_config, make_data, make_schema
from tests.ranks import run, settings

pytestmark = pytest.mark.distributed
SMALL = settings(model__kind="shared_bottom", insight__every_steps=0, train__epochs=1, log__every_steps=10)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two rows of the test split cannot be used."""
    folder = tmp_path_factory.mktemp("trained")
    data = make_data(folder / "data", rows=400, files=2)
    path = data / "test" / "part-00000.parquet"
    table = pq.read_table(path)
    labels = table.column("like").to_pylist()
    labels[3], labels[30] = 2, 7
    index = table.schema.get_field_index("like")
    pq.write_table(table.set_column(index, "like", pa.array(labels, pa.int8())), path)
    config = make_config(folder, data)
    ended = run(1, "train", config, *SMALL, *settings(data__on_bad_row="skip"))
    assert ended.codes == [0], ended.text
    return folder, config, ended.text


def test_rows_left_out_of_an_evaluation_are_told(trained):
    folder, _, text = trained
    assert "bad rows: 2 of test are left out so far: like: label neither 0 nor 1 (2)" in text
    told = json.loads((folder / "run" / "bad_rows.json").read_text())
    assert (told["rows"], told["splits"].keys()) == (2, {"test"})
    [rows] = told["splits"]["test"]["rows_by_file"].values()
    assert rows == {"0": [3, 30]}
    tree = json.loads((folder / "run" / "evaluation.json").read_text())
    assert tree["test"]["like"]["samples"] == 98


def test_complete_means_figures_of_the_newest_checkpoint(trained, tmp_path):
    """A run that was trained for longer and ended within its last evaluation still has the figures of before."""
    folder, config, _ = trained
    shutil.copytree(folder / "run", tmp_path / "run")
    options = [*SMALL, *settings(data__on_bad_row="skip", run__dir=tmp_path / "run", train__epochs=2)]
    evaluation = tmp_path / "run" / "evaluation.json"
    before = evaluation.read_text()
    longer = run(1, "train", config, *options)
    assert longer.codes == [0]
    assert "the run had ended at step 7, at the end of the linear decay of its learning rate" in longer.text
    whole = evaluation.read_text()
    assert json.loads(whole)["step"] == 14
    for left in (before, whole[: len(whole) // 2], whole.replace('"validation"', '"other"')):
        evaluation.write_text(left)
        ended = run(1, "train", config, *options)
        assert ended.codes == [0], ended.text
        assert "run complete" not in ended.text
        assert "evaluation: test" in ended.text
        assert evaluation.read_text() == whole
    ended = run(1, "train", config, *options)
    assert "run complete" in ended.text
    assert "evaluation: test" not in ended.text


def test_every_split_that_is_asked_for_is_evaluated(trained):
    folder, _, _ = trained
    ended = run(1, "evaluate", folder / "run", "--split", "train", "--split", "test")
    assert ended.codes == [0], ended.text
    assert ended.text.index("evaluation: train") < ended.text.index("evaluation: test")
    assert "evaluation: validation" not in ended.text
    assert "2 of test are left out" in ended.text


def test_a_run_without_splits_says_that_there_is_nothing_to_evaluate(trained, tmp_path):
    folder, _, _ = trained
    shutil.copytree(folder / "run", tmp_path / "run")
    path = tmp_path / "run" / "config.toml"
    text = path.read_text()
    path.write_text(text.replace('validation = "validation"', 'validation = ""').replace('test = "test"', 'test = ""'))
    ended = run(1, "evaluate", tmp_path / "run")
    assert ended.codes == [2]
    assert "data.validation and data.test are empty" in ended.text
    assert "--split train" in ended.text
    ended = run(1, "evaluate", tmp_path / "run", "--split", "test")
    assert ended.codes == [2]
    assert "data.test is empty" in ended.text


def test_the_best_by_gauc_needs_groups(trained, tmp_path):
    folder, _, _ = trained
    data = shutil.copytree(folder / "data", tmp_path / "data")
    text = (data / "schema.toml").read_text()
    assert make_schema().group_column == "user_key"
    (data / "schema.toml").write_text(text.replace('group_column = "user_key"\n', ""))
    ended = run(1, "train", make_config(tmp_path, data), *SMALL, *settings(checkpoint__best="gauc"))
    assert ended.codes == [2]
    assert 'checkpoint.best = "gauc" needs a column to group by' in ended.text
    assert not (tmp_path / "run").exists()
