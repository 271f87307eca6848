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
    """As a program that reads the folders' `day`, too."""
    for file in files:
        table = pq.ParquetFile(file.path).read()
        if len(table):
            for name, value in file.partition.items():
                table = table.append_column(name, pa.array([value] * len(table)))
            yield table, np.stack([table.column("x").to_numpy()] * 2, 1)


def test_what_cannot_be_is_refused_before_a_program_is_loaded(data, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "open_program", refuse_to_load)
    with pytest.raises(DataError, match=r"day=1/a.parquet: --keep user: no such column; the file has: day, row, x"):
        scoring.score_files([tmp_path], str(data), tmp_path / "out", scoring.ScoreColumns(("row", "user")), 10, False)
    pq.write_table(pa.table({"x": [1.0]}), data / "day=2" / "b.parquet")
    with pytest.raises(DataError, match=r"day=2/b.parquet: --keep row: no such column"):
        scoring.score_files([tmp_path], str(data), tmp_path / "out", scoring.ScoreColumns(("row",)), 10, False)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    with pytest.raises(ConfigError, match="is there already"):
        scoring.score_files([tmp_path], str(data), tmp_path / "there", scoring.ScoreColumns(), 10, False)


def program_of(factor, names=("like", "view")):
    def read(store, files, rows):
        return ((table, found * np.float32(factor)) for table, found in scores(store, files, rows))

    program = SimpleNamespace(names=[*names], scores=read, about={"predictions": [{"name": n} for n in names]})
    program.reading = lambda *_: program
    return program


def test_columns_of_files_and_of_folders_names_are_kept(data, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "open_program", lambda *_: program_of(1))
    beside = scoring.ScoreColumns(("row", "day"))
    assert scoring.score_files([tmp_path], str(data), tmp_path / "out", beside, 10, False) == 4
    written = pq.ParquetFile(tmp_path / "out" / "day=2" / "a.parquet").read().to_pydict()
    assert written == {"row": [2, 12], "day": ["2", "2"], "like": [0.5, 0.25], "view": [0.5, 0.25]}


def test_several_programs_are_averaged_beside_all_columns(data, tmp_path, monkeypatch):
    programs = {"a": program_of(1), "b": program_of(0.5)}
    monkeypatch.setattr(scoring, "open_program", lambda folder, _: programs[folder.name])
    folders = [tmp_path / "a", tmp_path / "b"]
    beside = scoring.ScoreColumns(all_columns=True, prefix="teacher_")
    assert scoring.score_files(folders, str(data), tmp_path / "out", beside, 10, False) == 4
    written = pq.ParquetFile(tmp_path / "out" / "day=2" / "a.parquet").read().to_pydict()
    mean = [0.375, 0.1875]
    assert written == {"row": [2, 12], "x": [0.5, 0.25], "teacher_like": mean, "teacher_view": mean}
    assert not (tmp_path / "out" / "empty.parquet").exists()
    assert pq.read_table(tmp_path / "out").num_rows == 4  # days are in the folders' names alone, as before


def test_programs_of_older_versions_are_scored(data, tmp_path, monkeypatch):
    older = program_of(1)
    older.about = {}  # without "predictions"
    monkeypatch.setattr(scoring, "open_program", lambda *_: older)
    assert scoring.score_files([tmp_path] * 2, str(data), tmp_path / "out", scoring.ScoreColumns(), 10, False) == 4


def test_two_columns_of_one_name_are_refused(data, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "open_program", lambda *_: program_of(1))
    table = pa.Table.from_arrays([pa.array([1.0]), pa.array([2]), pa.array([3])], ["x", "y", "y"])
    pq.write_table(table, data / "twice.parquet")
    columns = scoring.ScoreColumns(all_columns=True)
    with pytest.raises(DataError, match=r"twice.parquet: --all-columns: several columns are called 'y'"):
        scoring.score_files([tmp_path], str(data), tmp_path / "out", columns, 10, False)


def test_predictions_do_not_take_the_place_of_columns_or_of_each_other(data, tmp_path, monkeypatch):
    programs = {"a": program_of(1, ("x", "view")), "b": program_of(1)}
    monkeypatch.setattr(scoring, "open_program", lambda folder, _: programs[folder.name])
    with pytest.raises(DataError, match="column 'x' of the data: a prediction would have this name"):
        scoring.score_files([tmp_path / "a"], str(data), tmp_path / "out", scoring.ScoreColumns(all_columns=True), 10, False)
    with pytest.raises(ConfigError, match=r"--with .*b: predicts like, view, and .*a x, view"):
        scoring.score_files([tmp_path / "a", tmp_path / "b"], str(data), tmp_path / "out", scoring.ScoreColumns(), 10, False)
