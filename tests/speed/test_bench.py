"""`home-dist bench` on real ranks, and its figures against countings of their own."""

import json

import pyarrow.parquet as pq
import pytest
import torch

from home_dist.config import load_config
from home_dist.schema import build_layout, load_schema
from home_dist.speed.limits import bytes_per_second, products_per_second
from tests import ranks
from tests.factory import make_config, make_data

BATCH = 64


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    data = make_data(folder / "data")
    config = make_config(folder, data, batch_size=BATCH)
    out = folder / "bench.json"
    ended = ranks.run(2, "bench", config, "--steps", 6, "--warm-up", 3, "--traced", 2, "--out", out)
    assert ended.codes == [0, 0], ended.text
    return config, data, json.loads(out.read_text()), ended


@pytest.mark.distributed
def test_what_it_shows(bench):
    _, _, _, ended = bench
    for sign in (
        "samples/s",
        "evaluation",
        "waiting for data",
        "launches per step",
        "where a step goes",
        "exchange between ranks",
    ):
        assert sign in ended.outputs[0]
    assert "samples/s" not in ended.outputs[1]
    assert "Traceback" not in ended.text


@pytest.mark.distributed
def test_figures_agree_with_each_other(bench):
    _, _, found, _ = bench
    assert (found["ranks"], found["batch_size"], found["steps"]) == (2, BATCH, 6)
    seconds = found["step_seconds"]
    assert seconds["p50"] <= seconds["p90"] <= seconds["p99"]
    assert found["samples_per_second"] == pytest.approx(2 * found["samples_per_second_per_rank"])
    # No epoch ended in six steps: each had two full batches.
    assert found["samples_per_second"] == pytest.approx(2 * BATCH / seconds["mean"])
    used = found["flops_per_sample"] * found["samples_per_second_per_rank"] / found["limits"]["products_flops"]
    assert found["used"]["products"] == pytest.approx(used)
    assert 0 <= found["waiting_for_data"] < 1
    parts = found["breakdown"]["parts"]
    forward = 1 - sum(parts[p] for p in ("backward", "optimizer", "other")) / sum(parts.values())
    assert 0 < forward < 1
    assert found["forward_samples_per_second"] == pytest.approx(found["samples_per_second"] / forward)
    assert found["evaluation_samples_per_second"] > 0
    assert found["launches_per_step"] > 100
    assert found["peak_memory_bytes"] > 5e7


@pytest.mark.distributed
def test_bytes_of_rows_are_those_of_the_data(bench):
    """Ids per sample counted in the files; the batches that it counted them in are a sample of these."""
    config, data, found, _ = bench
    settings, schema = load_config(config), load_schema(data / "schema.toml")
    rows = pq.read_table(data / "train").to_pydict()
    count = len(next(iter(rows.values())))
    expected = 0.0
    for item in build_layout(schema, settings).inputs:
        if not item.table.replicated:
            values = rows[item.column]
            ids = sum(len(v) for v in values if v is not None) if isinstance(values[0], list) else len(values)
            expected += ids / count * item.table.dim * 4
    assert found["bytes_per_sample"]["embedding_rows"] == pytest.approx(expected, rel=0.1)
    stored = sum(p.stat().st_size for p in (data / "train").glob("*.parquet")) / count
    assert 0.3 * stored < found["bytes_per_sample"]["parquet"] <= stored


@pytest.mark.distributed
def test_it_writes_nothing_else(bench):
    config, _, _, _ = bench
    assert not (config.parent / "run").exists()


@pytest.mark.distributed
def test_a_folder_that_is_not_there(tmp_path):
    config = make_config(tmp_path, make_data(tmp_path / "data"), batch_size=BATCH)
    ended = ranks.run(2, "bench", config, "--out", tmp_path / "no" / "b.json")
    assert ended.codes == [2, 2], ended.text
    assert ended.text.count("there is no folder") == 1


def test_limits_are_of_this_machine():
    """A product of 1536 x 1536 takes longer than one of half the side by about eight: the limit is per FLOP."""
    cpu = torch.device("cpu")
    assert 1e9 < products_per_second(cpu, "fp32") < 1e14
    assert 1e8 < bytes_per_second(cpu) < 1e13
