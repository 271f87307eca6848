"""Which files of a growing folder count."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from home_dist.config import DataSection
from home_dist.data.arrivals import arrived


@pytest.fixture
def folder(tmp_path):
    for name in ("day=1/a.parquet", "day=1/_b.parquet", "day=2/a.parquet", ".day=3/a.parquet", "day=4/a.parquet.part"):
        path = tmp_path / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"x": [1]}), path)
    return tmp_path


def names(folder, follow):
    return [f.name for f in arrived(DataSection(path=str(folder), follow=follow))[1]]


def test_folders_that_are_whole(folder):
    assert names(folder, "success") == []
    (folder / "train" / "day=2" / "_SUCCESS").touch()
    assert names(folder, "success") == ["day=2/a.parquet"]


def test_files_with_their_final_names(folder):
    assert names(folder, "rename") == ["day=1/a.parquet", "day=2/a.parquet"]
    (folder / "train" / ".day=3").rename(folder / "train" / "day=3")
    (folder / "train" / "day=4" / "a.parquet.part").rename(folder / "train" / "day=4" / "a.parquet")
    assert names(folder, "rename") == [f"day={day}/a.parquet" for day in (1, 2, 3, 4)]


def test_nothing_yet(tmp_path):
    (tmp_path / "train" / "day=1").mkdir(parents=True)
    assert names(tmp_path, "success") == names(tmp_path, "rename") == []
    pq.write_table(pa.table({"x": [1]}), tmp_path / "train" / "day=1" / "_part.parquet")
    assert names(tmp_path, "rename") == []
