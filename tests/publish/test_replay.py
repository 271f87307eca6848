"""Golden requests: the trainer's answers travel with a version, and the published files alone give the same."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from home_dist import load
from home_dist.cli import app
from home_dist.export.source import Source
from home_dist.publish import of_checkpoint
from home_dist.publish.few_rows import FewRows
from home_dist.publish.folder import VersionsFolder
from home_dist.publish.golden import golden_requests
from home_dist.publish.manifest import PublishError
from home_dist.publish.of_checkpoint import publish_checkpoint
from home_dist.publish.reading import read_version
from home_dist.publish.replay import TOLERANCE, compared, replay
from home_dist.publish.scoring import open_version
from tests.publish.raw_data import raw_data
from tests.publish.trained import CUT, MANAGED, source, trained_on
from tests.ranks import settings

pytestmark = pytest.mark.distributed

KINDS = {"plain": CUT, "managed": MANAGED, "averaged": settings(train__ema__decay=0.5, train__ema__use=True)}


@pytest.fixture(scope="module", params=KINDS)
def trained(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return trained_on(1, raw_data(folder / "data"), KINDS[request.param])


@pytest.mark.parametrize("rows", ["fp32", "fp16", "int8"])
def test_the_published_files_answer_as_the_trainer(trained, tmp_path, rows):
    to = str(tmp_path / "out")
    publish_checkpoint(source(trained, 2), to, rows, golden=10)
    publish_checkpoint(source(trained, 4), to, rows, delta=True, golden=30)
    for version, count in (("v000001", 10), (None, 30)):
        manifest, found = replay(to, version)
        assert manifest.golden == count
        assert [p.name for p in found] == [p["name"] for p in manifest.predictions]
        assert {p.requests for p in found} == {count}
        largest = max(p.largest_difference for p in found)
        assert largest <= (1e-6 if rows == "fp32" else TOLERANCE[rows] / 2)
        assert rows == "fp32" or largest > 0


def copied(trained, tmp_path):
    """The folder of the run and its data, to be damaged."""
    copy = tmp_path / "copy"
    shutil.copytree(trained.parent, copy)
    config = (copy / "run" / "config.toml").read_text().replace(str(trained.parent), str(copy))
    (copy / "run" / "config.toml").write_text(config)
    return copy


def test_golden_requests_are_rows_of_the_data_with_what_the_run_predicts(trained, tmp_path):
    publish_checkpoint(source(trained, 4), str(tmp_path / "out"), "fp32")
    golden = pq.read_table(tmp_path / "out" / "v000001" / "golden.parquet")
    columns = [c for c in golden.column_names if not c.startswith("answer.")]
    files = sorted((trained.parent / "data" / "validation").iterdir())
    there = {str(row) for path in files for row in pq.read_table(path, columns=columns).to_pylist()}
    assert len(golden) == 64
    assert all(str(row) in there for row in golden.select(columns).to_pylist())
    expected = load(trained, 4).predict(golden.select(columns))
    for name in expected.column_names:
        np.testing.assert_allclose(golden[f"answer.{name}"], expected[name], rtol=0, atol=1e-7)
    assert np.std(golden[f"answer.{expected.column_names[0]}"]) > 0


def test_averages_are_published_where_the_run_uses_them(tmp_path):
    trained = trained_on(1, raw_data(tmp_path / "data"), KINDS["averaged"])
    checkpoint = trained / "checkpoints" / "step-00000004"
    for averaged in (None, False):
        publish_checkpoint(Source.open(checkpoint, averaged), str(tmp_path / f"{averaged}"), "fp32", golden=4)
        replay(str(tmp_path / f"{averaged}"))
    one, other = (read_version(str(tmp_path / f"{averaged}")).dense for averaged in (None, False))
    assert one.keys() == other.keys()
    assert not all(torch.equal(values, other[name]) for name, values in one.items())


def test_no_rows_but_those_of_golden_requests_are_held(trained, monkeypatch):
    held = {}
    rows_at = Source.rows_at
    monkeypatch.setattr(Source, "rows_at", lambda self, name, slots: held.setdefault(name, rows_at(self, name, slots)))
    opened = source(trained, 4)
    golden_requests(FewRows.of(opened), opened.given.data, 2)
    assert held.keys() == {t.name for t in opened.layout.tables if not t.replicated}
    assert any(0 < len(rows) < opened.table_shape(name)[0] / 4 for name, rows in held.items())


def test_rows_that_training_refuses_are_no_golden_requests(trained, tmp_path):
    copy = copied(trained, tmp_path)
    for path in (copy / "data" / "validation").iterdir():
        table = pq.read_table(path)
        bad = pa.array([-1 if n % 3 == 0 else v for n, v in enumerate(table["tab"].to_pylist())], table["tab"].type)
        pq.write_table(table.set_column(table.column_names.index("tab"), "tab", bad), path)
    publish_checkpoint(source(copy / "run", 4), str(tmp_path / "out"), "fp32", golden=30)
    assert 10 <= replay(str(tmp_path / "out"))[0].golden < 30
    for path in (copy / "data" / "validation").iterdir():
        table = pq.read_table(path)
        bad = pa.array([-1] * len(table), table["tab"].type)
        pq.write_table(table.set_column(table.column_names.index("tab"), "tab", bad), path)
    with pytest.raises(PublishError, match=r"validation/.*parquet: all 30 rows that were tried are refused, .*'tab'"):
        publish_checkpoint(source(copy / "run", 4), str(tmp_path / "out"), "fp32", golden=30)


def test_a_version_predicts_any_rows_as_its_run_does(trained, tmp_path):
    publish_checkpoint(source(trained, 4), str(tmp_path / "out"), "fp32", golden=0)
    model, files = open_version(str(tmp_path / "out")), sorted((trained.parent / "data" / "test").iterdir())
    table = pa.concat_tables([pq.read_table(path, columns=model.columns) for path in files])
    one, other = model.predict(table), load(trained, 4).predict(table)
    assert one.column_names == other.column_names == [p["name"] for p in model.predictions]
    for name in one.column_names:
        np.testing.assert_allclose(one[name], other[name], rtol=0, atol=1e-7)
    unknown = table.slice(0, 1)
    unknown = unknown.set_column(unknown.column_names.index("user"), "user", pa.array(["never seen"]))
    [one], [other] = (m.predict(unknown).to_pylist() for m in (model, load(trained, 4)))
    assert one == pytest.approx(other, abs=1e-7)


def test_the_command_tells_answers_that_are_too_far_apart(trained, tmp_path, monkeypatch):
    to = str(tmp_path / "out")
    publish_checkpoint(source(trained, 4), to, "fp32")
    told = CliRunner().invoke(app, ["replay", to])
    assert told.exit_code == 0
    assert "v000001, 64 golden requests, fp32 rows, allowed 1e-05: as the trainer answers" in told.output
    answers, model = of_checkpoint.golden_requests, FewRows.of(source(trained, 2))
    monkeypatch.setattr(of_checkpoint, "golden_requests", lambda _, *rest: answers(model, *rest))
    publish_checkpoint(source(trained, 4), to, "fp32")
    told = CliRunner().invoke(app, ["replay", to])
    assert told.exit_code == 1
    assert "v000002, 64 golden requests, fp32 rows, allowed 1e-05: too far apart: " in told.output
    assert CliRunner().invoke(app, ["replay", to, "--version", "v000001"]).exit_code == 0


def test_what_is_missing_or_damaged_is_told(trained, tmp_path):
    to = tmp_path / "out"
    publish_checkpoint(source(trained, 4), str(to), "fp32", golden=0)
    with pytest.raises(PublishError, match=r"v000001: holds no golden requests"):
        replay(str(to))
    publish_checkpoint(source(trained, 4), str(to), "fp32", golden=5)
    file = to / "v000002" / "golden.parquet"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(PublishError, match=r"golden.parquet: has [\d,]+ bytes instead of [\d,]+: it is incomplete"):
        replay(str(to))
    with pytest.raises(PublishError, match=r"v000009/manifest.json: no such file"):
        replay(str(to), "v000009")
    for name in ("1", "../out/v000001", ""):
        with pytest.raises(PublishError, match=r"is no version's name, .* Versions there: v000001, v000002"):
            replay(str(to), name)
    copy = copied(trained, tmp_path)
    for path in (copy / "data" / "validation").iterdir():
        path.unlink()
    with pytest.raises(PublishError, match=r"no golden requests could be taken .* or publish without: --golden 0"):
        publish_checkpoint(source(copy / "run", 4), str(to), "fp32")
    assert VersionsFolder(str(to)).versions() == [1, 2]
    publish_checkpoint(source(copy / "run", 4), str(to), "fp32", golden=0)


def test_an_answer_that_is_no_number_is_far_apart():
    one, other = (pa.table({"a": pa.array(values, pa.float32())}) for values in ([float("nan"), 1.0], [0.5, 1.0]))
    assert compared(one, other)[0].largest_difference == np.inf
    assert compared(pa.table({"a": [30.0]}), pa.table({"a": [20.0]}))[0].largest_difference == 0.5
