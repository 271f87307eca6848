"""`home-dist score` with a program that takes no time: what is refused before one is loaded, and what is kept."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from home_dist.errors import ConfigError, DataError
from home_dist.export import scoring


@pytest.fixture
def data(tmp_path):
    for day in (1, 2):
        (tmp_path / "data" / f"day={day}").mkdir(parents=True)
        pq.write_table(pa.table({"row": [day, day + 10], "x": [0.5, 0.25]}), tmp_path / "data" / f"day={day}" / "a.parquet")
    pq.write_table(pa.table({"other": pa.nulls(0)}), tmp_path / "data" / "empty.parquet")
    return tmp_path / "data"


def refuse_to_load(*_):
    raise RuntimeError("the program was loaded")


def scores(store, files, rows):
    for file in files:
        table = pq.ParquetFile(file.path).read()
        if len(table):
            yield table, np.stack([table.column("x").to_numpy()] * 2, 1)


def test_what_cannot_be_is_refused_before_a_program_is_loaded(data, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "open_program", refuse_to_load)
    with pytest.raises(DataError, match=r"day=1/a.parquet: --keep user: no such column; the file has: day, row, x"):
        scoring.score_files(tmp_path, str(data), tmp_path / "out", ["row", "user"], 10, False)
    pq.write_table(pa.table({"x": [1.0]}), data / "day=2" / "b.parquet")
    with pytest.raises(DataError, match=r"day=2/b.parquet: --keep row: no such column"):
        scoring.score_files(tmp_path, str(data), tmp_path / "out", ["row"], 10, False)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    with pytest.raises(ConfigError, match="is there already"):
        scoring.score_files(tmp_path, str(data), tmp_path / "there", [], 10, False)


def test_columns_of_files_and_of_folders_names_are_kept(data, tmp_path, monkeypatch):
    program = SimpleNamespace(names=["like", "view"], scores=scores)
    program.reading = lambda *_: program
    monkeypatch.setattr(scoring, "open_program", lambda *_: program)
    assert scoring.score_files(tmp_path, str(data), tmp_path / "out", ["row", "day"], 10, False) == 4
    written = pq.ParquetFile(tmp_path / "out" / "day=2" / "a.parquet").read().to_pydict()
    assert written == {"row": [2, 12], "day": ["2", "2"], "like": [0.5, 0.25], "view": [0.5, 0.25]}
