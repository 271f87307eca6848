"""Ranks find requests together: what one rank alone finds, and all of them fail if one request is apart."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from home_dist.config import load_config
from home_dist.data import open_files
from home_dist.data.request_scan import find_requests
from home_dist.schema import build_layout
from tests.distributed.request_ranks import as_json
from tests.factory import make_config, make_rows, make_schema
from tests.ranks import run_module

pytestmark = pytest.mark.distributed

FOLDERS = {
    "small": ([[3, 1, 1, 7, 2, 9, 4, 4, 1, 1, 1, 12, 5], [1, 1], [6] * 9], 4),
    "long": ([[2, 300, 1, 70, 3]], 10),  # over many row groups, and over whole shares of ranks
    "one": ([[5]], 2),
    "tiny": ([[1]], 1),
}
APART = {
    "over-files": [[0, 0, 1, 2, 3, 3], [4, 5, 5, 1]],
    "within-a-file": [[0, 0, 1, 2, 0, 3], [4, 5, 5, 6]],
}


def write(folder, requests, group):
    """requests: by file, the request of each row."""
    folder.mkdir()
    for number, of_rows in enumerate(requests):
        table = make_rows(len(of_rows)).append_column("request_id", pa.array(of_rows))
        pq.write_table(table, folder / f"part-{number}.parquet", row_group_size=group)


@pytest.mark.parametrize("ranks", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_ranks_find_what_one_alone_finds(ranks, tmp_path):
    schema = make_schema()
    layout = build_layout(schema, load_config(make_config(tmp_path, tmp_path)))
    for name, (sizes, group) in FOLDERS.items():
        numbers = np.cumsum([0, *map(len, sizes)])
        of_rows = [np.repeat(np.arange(len(s)) + first, s) for s, first in zip(sizes, numbers[:-1], strict=True)]
        write(tmp_path / name, of_rows, group)
    for name, requests in APART.items():
        write(tmp_path / name, requests, 3)
    run_module(ranks, "tests.distributed.request_ranks", tmp_path, ",".join([*FOLDERS, *APART]))
    for name, (sizes, _) in FOLDERS.items():
        alone = find_requests(open_files(tmp_path / name, schema, layout, ("request_id",)))
        assert alone.sizes.tolist() == [n for s in sizes for n in s]
        for rank in range(ranks):
            assert json.loads((tmp_path / f"{name}.{rank}.json").read_text()) == as_json(alone), (name, rank)
    for name in APART:
        told = [json.loads((tmp_path / f"{name}.{rank}.json").read_text()) for rank in range(ranks)]
        errors = [t["error"] for t in told if "error" in t]
        assert len(errors) == 1
        assert sum("other" in t for t in told) == ranks - 1
        again = "part-1" if name == "over-files" else "part-0"
        assert "part-0.parquet and again at row" in errors[0]
        assert f"{again}.parquet. Write" in errors[0]
