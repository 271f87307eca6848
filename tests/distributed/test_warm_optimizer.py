"""A warm start with the optimizers' state: on the same data it is the resumed run, bit for bit; on grown tables each key and
each name keeps its own state."""

import json
from pathlib import Path

import pytest
import torch

from home_dist.schema import Schema, save_schema
from home_dist.training.checkpoint.pieces import Stored
from home_dist.training.checkpoint.reading import open_stored
from tests.distributed.test_warm_start import grown_vocabularies
from tests.factory import make_config, make_data, make_schema
from tests.ranks import run_module

pytestmark = pytest.mark.distributed

MODULE = "tests.distributed.warm_ranks"


def lines(ranks: int, phase: str, *args: object) -> list[dict]:
    ended = run_module(ranks, MODULE, phase, *args)
    return [json.loads(line) for line in ended.outputs[0].splitlines() if line.startswith("{")]


@pytest.mark.slow
def test_on_the_same_data_it_is_the_resumed_run(tmp_path):
    """On one and two ranks, from two ranks to one and from one to two, under other shardings, with each optimizer of tables."""
    config = make_config(tmp_path, make_data(tmp_path / "data", rows=300, files=2, row_group=60), batch_size=16)
    of_two = ["row_wise_adagrad,column_wise,data_parallel,row_wise", "adagrad,row_wise,data_parallel,column_wise"]
    of_one = ["row_wise_adagrad,data_parallel,row_wise,column_wise", "sgd,row_wise,data_parallel,table_wise"]
    lines(2, "save", config, tmp_path / "run", *of_two)
    lines(1, "save", config, tmp_path / "run", *of_one)
    ended = lines(2, "resume", config, tmp_path / "run", *of_two, "row_wise_adagrad,table_wise,row_wise,row_wise")
    ended += lines(1, "resume", config, tmp_path / "run", *of_one, "adagrad,column_wise,row_wise,table_wise")
    assert len(ended) == 9
    for case in ended:
        assert case["of"] > 100
        assert case["differ"] == [], (case["from"], case["to"])
        assert case["without"] > 100  # what a fresh state changes
        report = case["report"]
        of_sgd = case["to"].split("-")[1].startswith("sgd")
        assert ("  table user: 3,000 of 3,000 rows, row by row" + ("" if of_sgd else ", with their optimizer state")) in report
        assert "  table rate: 5 of 5 rows, bucket by bucket, with their optimizer state" in report


def grown(rows: dict[str, int]) -> Schema:
    """More rows, and `rate` and `age` fitted on other days."""
    tree = make_schema().model_dump(exclude_none=True, mode="json")
    for table in tree["table"]:
        table["rows"] = rows.get(table["name"], table["rows"])
    for feature in tree["feature"]:
        feature.update({"rate": {"mean": 0.25}, "age": {"std": 4.0}}.get(feature["name"], {}))
    return Schema.model_validate(tree)


def stored_of(run: Path) -> Stored:
    return open_stored(next((run / "checkpoints").glob("step-*")))[0]


@pytest.mark.slow
def test_grown_tables_keep_the_state_of_each_key(tmp_path):
    """From two ranks to one; user: from four blocks of columns to one, so that a row's state is the mean of the blocks'."""
    old = make_data(tmp_path / "old", rows=300, files=2, row_group=60)
    new = make_data(tmp_path / "new", rows=300, files=2, row_group=60)
    keys, later = grown_vocabularies(old, new)
    save_schema(grown({name: 1 + len(values) for name, values in later.items()}), new / "schema.toml")
    case = "row_wise_adagrad,column_wise,data_parallel,row_wise"
    lines(2, "save", make_config(tmp_path, old, batch_size=16), tmp_path / "run", case)
    config = make_config(tmp_path / "later", new, batch_size=16)
    shardings = "row_wise_adagrad,row_wise,row_wise,column_wise"
    (begun,) = lines(1, "begin", config, tmp_path / f"run-2-{case}", tmp_path / "begun", shardings)
    lines(1, "begin", config, "-", tmp_path / "fresh", shardings)
    there, here, fresh = (stored_of(tmp_path / name) for name in (f"run-2-{case}", "begun", "fresh"))

    def by_key(before: torch.Tensor, untouched: torch.Tensor, table: str) -> torch.Tensor:
        out = untouched.clone()
        out[0] = before[0]
        place = {key: row for row, key in enumerate(keys[table], 1)}
        for row, key in enumerate(later[table], 1):
            if key in place:
                out[row] = before[place[key]]
        return out

    def equal(name: str, expected: torch.Tensor) -> None:
        torch.testing.assert_close(here.whole(name), expected, rtol=0, atol=0, msg=name)

    user = [stored.whole("tables/user/weight") for stored in (there, fresh)]
    equal("tables/user/weight", by_key(*user, "user"))
    blocks = there.whole("tables/user/momentum1")
    assert blocks.shape == (4, 3000)
    mean = blocks.double().mean(0).float()
    assert mean.count_nonzero() > 20
    equal("tables/user/momentum1", by_key(mean, torch.zeros(3600), "user")[None])
    equal("tables/tag/momentum1", there.whole("tables/tag/momentum1"))
    equal("tables/video/momentum1", there.whole("tables/video/momentum1").expand(here.shape("tables/video/momentum1")))
    for table in ("user", "tag", "video"):
        equal(f"tables/{table}/steps", torch.tensor(3))

    small = "head.features.replicated.weights.4"  # tab (5 rows, now 7), level (4), and the buckets of rate (5)
    for name in (f"dense/{small}", *(f"dense_optimizer/{small}/{key}" for key in ("exp_avg", "exp_avg_sq"))):
        before, untouched = there.whole(name), fresh.whole(name)
        assert before[:9].count_nonzero() > 20
        equal(name, torch.cat([by_key(before[:5], untouched[:7], "tab"), before[5:9], untouched[11:]]))
    steps = [name for name in here.tensors if name.startswith("dense_optimizer/") and name.endswith("/step")]
    assert len(steps) > 20
    for name in steps:
        equal(name, torch.tensor(3.0))

    columns = begun["columns"]
    changed = ["feature rate (vector of 4)"] * 4 + ["feature rate (value)", "feature age (value)"]
    assert [c for c in columns if c in changed] == changed
    first = torch.tensor([column in changed for column in columns])
    inner, checked = [line.split()[1].removesuffix(":") for line in begun["report"] if ": taken by name" in line], 0
    for name in inner:
        for tensor in (f"dense/{name}", *(f"dense_optimizer/{name}/{key}" for key in ("exp_avg", "exp_avg_sq"))):
            before, untouched = there.whole(tensor), fresh.whole(tensor)
            mask = first if before.shape[-1] == len(columns) else first[len(columns) - before.shape[-1] :]
            equal(tensor, torch.where(mask, untouched, before))
            checked += 1
    assert {"head.linear.weight", "head.model.meta.bank.weights.0", "head.model.meta.feature_gate.down"} <= set(inner)
    assert checked >= 18
    for name in here.tensors:
        if name.startswith("dense/") and not name.endswith(small) and name.removeprefix("dense/") not in inner:
            equal(name, there.whole(name))
    for line in (
        "  table user: 2,900 of 3,600 rows, by key, with their optimizer state; 700 keep their first values",
        "  table tab: 5 of 7 rows, by key, with their optimizer state; 2 keep their first values",
        "  table rate: its mean was 0.1 and is 0.25; first values stay",
        "  feature age: its std was 3 and is 4; weights that read it keep their first values",
        "  dense head.linear.weight: taken by name, with its optimizer state; first values stay for feature age (value, fitted "
        "otherwise), feature rate (value, fitted otherwise)",
    ):
        assert line in begun["report"]


@pytest.mark.slow
def test_another_optimizer_starts_afresh_and_is_named(tmp_path):
    """Of sharded tables; and of tab, which is replicated there (AdamW) and sharded here."""
    config = make_config(tmp_path, make_data(tmp_path / "data", rows=100, files=1, row_group=60), batch_size=16)
    case = "row_wise_adagrad,row_wise,row_wise,row_wise"
    lines(1, "save", config, tmp_path / "run", case)
    source = tmp_path / f"run-1-{case}"
    sharded = "replicate_rows = 4\n[embedding.tables.tab]\ndim = 4"
    config.write_text(config.read_text().replace("replicate_rows = 100", sharded))
    (begun,) = lines(1, "begin", config, source, tmp_path / "begun", case.replace("row_wise_adagrad", "adagrad"))
    for line in (
        "  table user: 3,000 of 3,000 rows, row by row, without their optimizer state (row_wise_adagrad there, adagrad here)",
        "  table tab: 5 of 5 rows, row by row, without their optimizer state (adamw there, adagrad here)",
        "  table level: 4 of 4 rows, row by row, with their optimizer state",
    ):
        assert line in begun["report"]
    here, there = stored_of(tmp_path / "begun"), stored_of(source)
    assert here.whole("tables/user/weight").equal(there.whole("tables/user/weight"))
    assert here.whole("tables/tab/weight").equal(there.whole("dense/head.features.replicated.weights.4")[:5])
    assert here.shape("tables/user/momentum1") == (3000, 512)
    for table in ("user", "tab"):
        assert here.whole(f"tables/{table}/momentum1").count_nonzero() == 0
        assert int(here.whole(f"tables/{table}/steps")) == 0
