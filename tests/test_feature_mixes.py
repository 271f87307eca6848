"""Every mix of kinds of features trains, and is scored alike by the exported model's inputs."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from home_dist.config import RunConfig
from home_dist.data import Reader, open_files
from home_dist.network import Network
from home_dist.schema import Schema, build_layout

ROWS = 24
TABLES = {"small": 9, "large": 40, "tag": 41, "seen": 42}
COLUMNS = {
    "small_id": lambda r: r.integers(0, 9, ROWS),
    "large_id": lambda r: r.integers(0, 40, ROWS),
    "tags": lambda r: [r.integers(0, 41, n).tolist() for n in r.integers(0, 4, ROWS)],
    "watched": lambda r: [r.integers(0, 42, n).tolist() for n in r.integers(0, 4, ROWS)],
    "item": lambda r: r.integers(0, 42, ROWS),
    "plays": lambda r: [None if n % 5 == 0 else float(n) for n in range(ROWS)],
    "age": lambda r: r.normal(size=ROWS),
    "scores": lambda r: r.normal(size=(ROWS, 3)).tolist(),
    "cover": lambda r: [None if n % 4 == 0 else [1.0, float(n)] for n in range(ROWS)],
}
FEATURES = {
    "small": {"kind": "id", "name": "small", "column": "small_id", "table": "small"},
    "large": {"kind": "id", "name": "large", "column": "large_id", "table": "large"},
    "tags": {"kind": "id", "name": "tags", "column": "tags", "table": "tag", "pooling": "mean"},
    "item": {"kind": "id", "name": "item", "column": "item", "table": "seen"},
    "plays": {"kind": "statistic", "name": "plays", "column": "plays", "boundaries": [2.0, 9.0]},
    "age": {"kind": "dense", "name": "age", "column": "age"},
    "scores": {"kind": "dense", "name": "scores", "column": "scores", "width": 3},
    "cover": {"kind": "pretrained", "name": "cover", "column": "cover", "width": 2},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixes")
    random = np.random.default_rng(0)
    columns = {name: pa.array(make(random)) for name, make in COLUMNS.items()}
    columns |= {"like": pa.array(random.integers(0, 2, ROWS)), "buy": pa.array(random.integers(0, 2, ROWS))}
    pq.write_table(pa.table(columns), folder / "part.parquet")
    return folder


@settings(max_examples=60, deadline=None)
@given(
    names=st.sets(st.sampled_from(sorted(FEATURES)), min_size=1),
    history=st.booleans(),
    model=st.sampled_from(["mmoe", "home", "shared_bottom", "pepnet", "tensor_factorization"]),
    replicate=st.sampled_from([0, 20, 100]),
)
def test_every_mix_of_features_trains(data, names, history, model, replicate):
    chosen = [FEATURES[n] for n in FEATURES if n in names or (history and n == "item")]
    used = {f["table"] for f in chosen if "table" in f}
    events = [{"column": "watched", "table": "seen", "target": "item"}]
    schema = Schema.model_validate(
        {
            "table": [{"name": name, "rows": rows} for name, rows in TABLES.items() if name in used],
            "feature": chosen,
            "sequence": [{"name": "watched", "events": events}] if history else [],
            "task": [{"name": t, "group": g, "column": t} for t, g in (("like", "a"), ("buy", "b"))],
        }
    )
    config = RunConfig.model_validate(
        {
            "run": {"dir": "x"},
            "data": {"path": str(data)},
            "embedding": {"dim": 4, "small_dim": 4, "replicate_rows": replicate},
            "sequence": [{"name": "watched", "hidden": [4]}] if history else [],
            "model": {"kind": model, "expert_hidden": [4], "expert_dim": 4, "tower_hidden": []},
        }
    )
    layout = build_layout(schema, config)
    torch.manual_seed(0)
    network = Network(schema, layout, config, torch.device("cpu"))
    reader = Reader(open_files(data, schema, layout), schema, layout, batch_size=16)
    for batch in reader.epoch(0):
        loss, output = network(batch)
        loss.backward()
        assert output.scores.shape == (16, 2)
        assert torch.isfinite(output.scores[batch.mask.bool()]).all()
    read = [p for p in network.parameters() if p.grad is not None]
    assert read
    assert all(torch.isfinite(p.grad).all() for p in read if p.grad is not None)
