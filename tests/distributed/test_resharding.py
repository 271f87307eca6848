"""A checkpoint of any number of ranks and any sharding, loaded on any other: parameters and optimizer state, bit for bit."""

import json
from pathlib import Path

import pytest

from tests.factory import make_config, make_data
from tests.ranks import run_module

pytestmark = pytest.mark.distributed

KINDS = ("table_wise", "row_wise", "column_wise", "data_parallel")
# Every kind beside every other. TorchRec has no data-parallel look-up without pooling on a CPU, which video needs.
CASES = [f"{KINDS[n]},{KINDS[(n + 1) % 4]},{KINDS[n % 3]}" for n in range(4)]


def lines(ranks: int, phase: str, config: Path, folder: Path, cases: list[str]) -> list[dict]:
    """Four ranks are two hosts."""
    per_host = 2 if ranks == 4 else None
    module = "tests.distributed.reshard_ranks"
    ended = run_module(ranks, module, phase, config, folder, *cases, timeout=600, per_host=per_host)
    return [json.loads(line) for line in ended.outputs[0].splitlines() if line.startswith("{")]


def prepared(folder: Path) -> Path:
    return make_config(folder, make_data(folder / "data", rows=300, files=2, row_group=60), batch_size=16)


@pytest.mark.slow
def test_from_two_ranks_to_one(tmp_path):
    """Column-wise to data-parallel, data-parallel to row-wise, row-wise to column-wise."""
    config = prepared(tmp_path)
    (saved,) = lines(2, "save", config, tmp_path, ["column_wise,data_parallel,row_wise"])
    assert saved["tensors"] > 40
    assert saved["blocks"] == {"user": 4, "tag": 0, "video": 1}
    (loaded,) = lines(1, "load", config, tmp_path, ["data_parallel,row_wise,column_wise"])
    assert loaded["of"] == saved["tensors"]
    assert loaded["differ"] == []


@pytest.mark.slow
def test_all_shardings_on_one_two_and_four_ranks(tmp_path):
    config = prepared(tmp_path)
    worlds = (1, 2, 4)
    saved = [entry for world in worlds for entry in lines(world, "save", config, tmp_path, CASES)]
    assert len(saved) == len(worlds) * len(CASES)
    loaded = [entry for world in worlds for entry in lines(world, "load", config, tmp_path, CASES)]
    assert len({(e["from"], e["to"]) for e in loaded}) == len(saved) ** 2
    assert [e for e in loaded if e["differ"]] == []


@pytest.mark.slow
def test_shardings_of_hosts(tmp_path):
    """From the kinds that four ranks on two hosts have to those of one and two ranks, and back."""
    config = prepared(tmp_path)
    of_hosts = ["grid,table_row_wise,row_wise", "table_column_wise,table_column_wise,table_wise"]
    others = ["row_wise,table_wise,column_wise"]
    saved = [*lines(4, "save", config, tmp_path, of_hosts), *lines(2, "save", config, tmp_path, others)]
    loaded = [*lines(1, "load", config, tmp_path, others), *lines(4, "load", config, tmp_path, of_hosts)]
    assert len(loaded) == len(saved) * 3
    assert [e for e in loaded if e["differ"]] == []
