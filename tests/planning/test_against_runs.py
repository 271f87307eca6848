"""The estimates of a plan, against what ranks hold and hand to each other."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from home_dist.config import load_config
from home_dist.planning.plan import plan
from home_dist.planning.topology import machines
from tests.factory import make_config, make_data
from tests.ranks import run_module

pytestmark = pytest.mark.distributed

TABLES = ("user", "tag", "video")
CASES = {
    (2, 1): [("table_wise", "row_wise", "row_wise"), ("column_wise", "table_wise", "table_wise")],
    (4, 2): [
        ("table_wise", "row_wise", "row_wise"),
        ("grid", "table_row_wise", "column_wise"),
        ("data_parallel", "grid", "row_wise"),
    ],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), rows=4000, files=2, row_group=200, splits=("train",))


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "hosts", "kinds"), [(*at, kinds) for at, cases in CASES.items() for kinds in cases])
def test_within_a_tenth(ranks, hosts, kinds, data, tmp_path):
    path = make_config(tmp_path, data, batch_size=64)
    pins = [f"embedding.tables.{t}.sharding={kind}" for t, kind in zip(TABLES, kinds, strict=True)]
    pins += ["embedding.dim=256", "data.validation=''", "data.test=''"]
    module = "tests.planning.measure_ranks"
    ended = run_module(ranks, module, path, *pins, per_host=ranks // hosts)
    found = [json.loads(line) for out in ended.outputs for line in out.splitlines() if line.startswith("{")]
    rows = pq.read_table(data / "train")
    lengths = {
        c: float(np.mean([len(x) for x in rows[c].to_pylist()])) for c in ("tags", "levels", "watched_video", "watched_level")
    }
    planned = plan(load_config(path, pins), machines(f"{ranks}xCPU-32GB", hosts), lengths)
    assert [p.sharding for p in sorted(planned.placed, key=lambda p: TABLES.index(p.table))] == list(kinds)
    expected = planned.estimate

    # On which host TorchRec puts a table depends on its guess of the machine's speed: all ranks together are compared.
    assert sum(f["tables"] for f in found) == expected.memory["tables"].sum()
    fused = [p for p in planned.placed if p.sharding != "data_parallel"]
    if len(fused) == len(planned.placed):
        assert sum(f["state"] for f in found) == expected.memory["their optimizer"].sum()
    assert {f["dense"] for f in found} == {planned.dense.parameters}

    reduced = sum(f["handed"]["c10d::allreduce_"] for f in found) / ranks
    others = sum(sum(f["handed"].values()) for f in found) / ranks - reduced
    handed = {use: float(values.mean()) for use, values in expected.traffic.handed.items()}
    gathered = planned.dense.statistics * 4
    print(f"{kinds} on {ranks} ranks: all_reduce {reduced:,.0f}, others {others:,.0f}; estimated {handed}")
    assert reduced == pytest.approx(handed["dense gradients"] + handed["statistics"] - gathered, rel=0.1)
    assert others == pytest.approx(handed["ids"] + handed["embeddings"] + handed["their gradients"] + gathered, rel=0.1)
