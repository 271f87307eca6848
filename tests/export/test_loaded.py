"""home_dist.load: a run's model in this process predicts what the run's own evaluation measured."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import home_dist
from home_dist import CheckpointError, ConfigError, DataError
from tests.mixed_tasks import mixed_config, mixed_data
from tests.ranks import run, settings

pytestmark = pytest.mark.distributed

COLUMNS = ["like", "seconds", "stars_0", "stars_1", "stars_2", "stars_3"]
COLUMNS += ["follow", "by_duration", "odds", "levels_watched", "watch"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Tasks of every kind, on one rank, whose scores stand in the order of the files."""
    folder = tmp_path_factory.mktemp("loaded")
    data = mixed_data(folder / "data", rows=512, files=2, row_group=64)
    options = settings(checkpoint__every_steps=4, train__epochs=1, train__ema=0.9, kernel__precision="fp32")
    ended = run(1, "train", mixed_config(folder, data), *options)
    assert ended.codes == [0], ended.text
    return folder


@pytest.fixture(scope="module")
def model(trained):
    return home_dist.load(trained / "run")


@pytest.fixture(scope="module")
def table(trained):
    return pq.read_table(trained / "data" / "test")


def as_array(predicted: pa.Table) -> np.ndarray:
    return np.stack(predicted.columns, 1)


def test_it_predicts_what_evaluation_measured(model, table, trained):
    kept = np.load(trained / "run" / "scores" / "test.npz")["scores"]
    assert kept.shape == (128, 11)
    assert kept.std(0).min() > 1e-4
    for rows in (4096, 17, 1):
        predicted = model.predict(table, rows)
        assert predicted.column_names == COLUMNS == [p["name"] for p in model.predictions]
        np.testing.assert_allclose(as_array(predicted), kept, rtol=1e-6, atol=1e-6)
    assert (model.step, model.place.name) == (8, "step-00000008")
    assert [p["unit"] for p in model.predictions][:3] == ["probability", "s", "probability"]


def test_every_form_of_a_table_gives_the_same(model, table, trained):
    expected = model.predict(table)
    assert model.predict(trained / "data" / "test") == expected
    [file] = (trained / "data" / "test").glob("*.parquet")
    assert model.predict(str(file)) == expected
    chunks = pa.concat_tables([table.slice(0, 5), table.slice(5, 0), table.slice(5)])
    assert model.predict(chunks) == expected
    inputs = table.select(model.columns)
    assert model.predict(inputs) == expected  # without labels
    frame = inputs.to_pandas()
    assert isinstance(frame, pd.DataFrame)
    assert model.predict(frame) == expected
    backwards = model.predict(table.take(np.arange(len(table))[::-1].copy()))
    np.testing.assert_allclose(as_array(backwards)[::-1], as_array(expected), rtol=1e-5, atol=1e-6)
    empty = model.predict(table.slice(0, 0))
    assert (empty.num_rows, empty.schema) == (0, expected.schema)


def test_steps_and_averages_can_be_chosen(trained, table, model):
    newest, older, averages = (
        as_array(m.predict(table))
        for m in (model, home_dist.load(trained / "run", step=4), home_dist.load(trained / "run", averaged=True))
    )
    assert np.abs(newest - older).max() > 1e-3
    assert np.abs(newest - averages).max() > 1e-3
    by_folder = home_dist.load(trained / "run" / "checkpoints" / "step-00000004")
    np.testing.assert_array_equal(as_array(by_folder.predict(table)), older)
    with pytest.raises(CheckpointError, match=r"run: no checkpoint of step 5; there are: 4, 8"):
        home_dist.load(trained / "run", step=5)


def test_what_cannot_be_predicted_is_named(model, table, trained):
    with pytest.raises(DataError, match=r"the table: columns that the model reads are missing: video, age\. It has: by"):
        model.predict(table.drop_columns(["video", "age"]).append_column("by", table["rate"]))
    text = table.set_column(table.column_names.index("age"), "age", pa.array(["x"] * len(table)))
    with pytest.raises(DataError, match=r"the table: column 'age' has type string, but numbers are needed"):
        model.predict(text)
    video = table["video"].to_pylist()
    video[20] = 2000
    wrong = table.set_column(table.column_names.index("video"), "video", pa.array(video))
    for rows in (4096, 7):
        with pytest.raises(DataError, match=r"the table: column 'video': .*2000.*first in row 20 of the table"):
            model.predict(wrong, rows)
    with pytest.raises(DataError, match=r"a dict is no table: give a pyarrow\.Table, a pandas\.DataFrame or the path"):
        model.predict({"video": [1]})
    with pytest.raises(ConfigError, match="rows = 0: compute at least one row"):
        model.predict(table, 0)
    with pytest.raises(CheckpointError, match="no run is there"):
        home_dist.load(trained / "data")
