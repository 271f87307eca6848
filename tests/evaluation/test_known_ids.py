"""Ids that the tables do not know: counted over ranks as a count of the Parquet files, told, and shown in the report."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from home_dist.config.insight import RulesSection
from home_dist.evaluation.known_ids import KnownCounter
from home_dist.files.json_files import read_json
from home_dist.insight.cold_ids import KnownIds, cold_signs
from home_dist.insight.report import write_report
from home_dist.insight.run_record import RunRecord
from home_dist.metrics import ALONE
from home_dist.schema.values import VocabularyValues
from tests.factory import make_config, make_data
from tests.ranks import run, settings


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run whose test split knows a fifth of its videos."""
    folder = tmp_path_factory.mktemp("cold")
    data = make_data(folder / "data", rows=400)
    [path] = (data / "test").glob("*.parquet")
    table = pq.read_table(path)
    cold = np.random.default_rng(0).random(len(table)) < 0.8
    at = table.schema.get_field_index("video")
    video = pc.if_else(pa.array(cold), pa.scalar(0, pa.int32()), table["video"].cast(pa.int32()))
    pq.write_table(table.set_column(at, "video", video), path, write_page_checksum=True)
    options = settings(train__max_steps=2, insight__every_steps=0)
    ended = run(1, "train", make_config(folder, data, batch_size=32), *options)
    assert ended.codes == [0], ended.text
    return folder, ended.text


def counted(folder, split):
    """Of the files: ids, and those above 0, by feature of a sharded table."""
    [path] = (folder / "data" / split).glob("*.parquet")
    table = pq.read_table(path)
    columns = {"user": table["user"], "video": table["video"], "tags": pc.list_flatten(table["tags"])}
    return {name: {"ids": len(ids), "known": pc.sum(pc.greater(ids, 0)).as_py()} for name, ids in columns.items()}


@pytest.mark.parametrize("split", ["validation", "test"])
def test_counts_are_those_of_the_files(trained, split):
    folder, _ = trained
    found = read_json(folder / "run" / "evaluation.json", "")["known_ids"][split]
    assert {name: {k: entry[k] for k in ("ids", "known")} for name, entry in found.items()} == counted(folder, split)
    assert found["tags"]["table"] == "tag"


def test_two_ranks_count_the_same(trained, tmp_path):
    folder, _ = trained
    ended = run(2, "evaluate", folder / "run", "--out", tmp_path / "figures.json")
    assert ended.codes == [0, 0], ended.text
    trees = [read_json(path, "")["known_ids"] for path in (folder / "run" / "evaluation.json", tmp_path / "figures.json")]
    assert trees[0] == trees[1]
    assert ended.text.count("finding: cold ids at feature video, test") == 1


def test_it_is_told_and_in_the_report(trained):
    folder, text = trained
    test = counted(folder, "test")["video"]
    told = (
        f"finding: cold ids at feature video, test: {test['known'] / test['ids']:.1%} of {test['ids']} ids have a row of table"
    )
    assert told in text
    assert text.count("cold ids") == 1  # neither other features nor validation
    [finding] = RunRecord.open(folder / "run").findings()
    assert (finding.sign.rule, finding.sign.where) == ("cold ids", "feature video, test")
    page = write_report(folder / "run", None, [], folder / "report.html").read_text()
    assert "Cold ids at feature video, test" in page
    assert "days between training and what is predicted" in page


def test_rows_that_unknown_ids_share_are_not_known():
    values = VocabularyValues(type="integer", file="v.parquet", unknown_rows=3)
    one = SimpleNamespace(key="video", place="bag", table=SimpleNamespace(name="video"))
    schema = SimpleNamespace(table=[SimpleNamespace(name="video", values=values)])
    counter = KnownCounter(SimpleNamespace(features=[one]), schema)
    bags = KeyedJaggedTensor.from_lengths_sync(
        ["user", "video"], torch.tensor([9, 9, 0, 1, 3, 4, 7, 9]), torch.tensor([1, 1, 2, 4]), None
    )
    counter.add(SimpleNamespace(bags=bags))
    counter.add(SimpleNamespace(bags=bags))
    assert counter.counted(ALONE) == [KnownIds("video", "video", 12, 6)]


@pytest.mark.parametrize(("ids", "known", "signs"), [(0, 0, 0), (10, 5, 0), (10, 4, 1), (10, 0, 1)])
def test_the_threshold(ids, known, signs):
    assert len(list(cold_signs("test", [KnownIds("video", "video", ids, known)], RulesSection()))) == signs
    assert list(cold_signs("train", [KnownIds("video", "video", ids, known)], RulesSection())) == []
