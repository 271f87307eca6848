"""Folders that are written whole or not at all."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from home_dist.errors import DataError
from home_dist.prepare.frozen import write_frozen
from home_dist.prepare.whole import written_whole


def test_a_folder_appears_only_when_it_is_done(tmp_path):
    out = tmp_path / "out"

    def half() -> None:
        with written_whole(out) as writing:
            (writing / "first").write_text("1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert not out.exists()
    out.mkdir()  # an empty folder may be there
    with written_whole(out) as writing:
        assert not any(writing.iterdir())  # nothing is left of the first try
        (writing / "second").write_text("2")
    assert [p.name for p in out.iterdir()] == ["second"]
    with pytest.raises(DataError, match="is there already"), written_whole(out):
        pass


def test_a_frozen_table_is_written_over_the_rest_of_a_killed_run(tmp_path):
    vectors = pa.array(np.eye(3).tolist(), pa.list_(pa.float64()))
    pq.write_table(pa.table({"id": [7, 5, 6], "vector": vectors}), tmp_path / "items.parquet")
    (tmp_path / "out.writing").mkdir()
    (tmp_path / "out.writing" / "keys.npy").write_bytes(b"half")
    write_frozen(tmp_path / "items.parquet", "id", "vector", tmp_path / "out")
    assert np.load(tmp_path / "out" / "keys.npy").tolist() == [5, 6, 7]
    assert not (tmp_path / "out.writing").exists()
