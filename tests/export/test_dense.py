"""Dense programs: rows that are looked up outside of them, and tensors of another version in place of their own."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from home_dist import load
from home_dist.cli import app
from home_dist.export.columns import batches_of
from home_dist.export.dense_inputs import described
from home_dist.export.dense_program import ABOUT_DENSE, DENSE, parameters_of, with_tables
from home_dist.export.dense_scorer import DenseScorer
from home_dist.export.tracing import exported
from home_dist.publish.of_checkpoint import dense_of
from tests.mixed_tasks import mixed_config, mixed_data
from tests.publish.raw_data import raw_data
from tests.publish.trained import CUT, MANAGED, source, trained_on
from tests.ranks import run, settings

pytestmark = pytest.mark.distributed

KINDS = {
    "cut": CUT,
    "managed": [*MANAGED, *settings(train__ema__decay=0.5)],
    "sim_hard": settings(sequence__0__kind="sim", sequence__0__search="hard", sequence__0__most=3),
    "dien": settings(sequence__0__kind="dien"),
    "sharded": settings(embedding__replicate_rows=0, model__kind="mmoe"),
    "stem": settings(model__kind="stem"),
}


@pytest.fixture(scope="module", params=KINDS)
def trained(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return trained_on(1, raw_data(folder / "data"), KINDS[request.param])


def rows_of_test(run):
    return pa.concat_tables([pq.read_table(path) for path in sorted((run.parent / "data" / "test").iterdir())])


def answers(program, table, rows):
    return np.concatenate([program.of_inputs(inputs) for inputs in batches_of(table, program.layout, rows)])


def test_it_answers_as_the_run_with_the_parameters_of_any_checkpoint(trained):
    old, new = source(trained, 2), source(trained, 4)
    scorer = DenseScorer(old)
    program, table = exported(scorer, scorer.inputs), rows_of_test(trained)
    assert not any(name.startswith(("tables.", "head.features.replicated")) for name in program.state_dict)
    assert set(parameters_of(program)) <= dense_of(new).keys()
    run = program.module()
    expected = {step: np.stack(load(trained, step).predict(table).columns, 1) for step in (2, 4)}
    assert np.abs(expected[2] - expected[4]).max() > 1e-3
    for rows in (1, 64):
        few = table.slice(0, 9 if rows == 1 else len(table))
        np.testing.assert_allclose(answers(with_tables(old, run, scorer.inputs), few, rows), expected[2][: len(few)], atol=1e-6)
    newer = dense_of(new)
    run.load_state_dict({name: newer[name] for name in parameters_of(program)}, strict=False)
    np.testing.assert_allclose(answers(with_tables(new, run, scorer.inputs), table, 64), expected[4], atol=1e-6)


def test_slots_are_asked_for_where_they_are_compared(trained):
    opened = source(trained, 2)
    scorer = DenseScorer(opened)
    slots = [n for n in scorer.inputs if n.startswith("slots.")]
    assert slots == (["slots.video/video", "slots.video/watched_video"] if "sim_hard" in str(trained) else [])
    told = {n: described(i, opened.schema) for n, i in scorer.inputs.items()}
    small = {name: one for name, one in told.items() if "parts" in one and one["kind"] == "rows"}
    [name] = [name for name, one in small.items() if {"column": "rate", "table": "rate"} in one["parts"]]
    dim = int(name.removeprefix("rows."))
    assert small[name]["shape"] == ["samples", len(small[name]["parts"]), dim]
    assert told["numbers"]["parts"] == [{"column": "rate"}, {"column": "age"}]
    assert told["numbers"]["shape"] == ["samples", 2]
    history = told["rows.video/watched_video"]
    assert (history["shape"][0], history["lengths"]) == ("events of watched", "lengths.watched")
    assert told["lengths.watched"] == {"kind": "lengths", "dtype": "int64", "shape": ["samples"], "of": "watched"}


def test_tasks_of_every_kind(tmp_path):
    config = mixed_config(tmp_path, mixed_data(tmp_path / "data", rows=300))
    ended = run(1, "train", config, *settings(train__max_steps=2, insight__every_steps=0))
    assert ended.codes == [0], ended.text
    told = CliRunner().invoke(app, ["export", str(tmp_path / "run"), "--format", "dense", "--out", str(tmp_path / "dense")])
    assert told.exit_code == 0, told.output
    assert json.loads((tmp_path / "dense" / "report.json").read_text())["largest_difference"] < 1e-4
    about = json.loads((tmp_path / "dense" / ABOUT_DENSE).read_text())
    model, table = load(tmp_path / "run"), rows_of_test(tmp_path / "run")
    assert about["predictions"] == model.predictions
    assert len({p["kind"] for p in about["predictions"]}) == 6
    assert about["inputs"]["duration.length"] == {
        "kind": "duration",
        "dtype": "float32",
        "shape": ["samples"],
        "column": "length",
    }
    opened = source(tmp_path / "run", 2)
    inputs = DenseScorer(opened).inputs
    assert about["order"] == list(inputs)
    program = with_tables(opened, torch.export.load(tmp_path / "dense" / DENSE).module(), inputs)
    expected = np.stack(model.predict(table).columns, 1)
    np.testing.assert_allclose(answers(program, table, 50), expected, rtol=1e-5, atol=1e-6)
