"""Rows of a table in two data folders, matched by key against a dictionary, or refused with the reason."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from home_dist.config import RunConfig
from home_dist.data.matching_rows import RunSide, Unknown, same_rows, vocabulary_hashes
from home_dist.files.hashes import file_sha256
from home_dist.schema import Schema, Table
from home_dist.schema.values import GrownFrom, Origin


def side(
    folder: Path, rows: int, values: dict | None = None, recorded: dict | None = None, schema: Path | None = None
) -> RunSide:
    """schema: where data.schema points to, if not into the data folder."""
    config = RunConfig.model_validate(
        {"run": {"dir": "x"}, "data": {"path": str(folder)} | ({"schema": str(schema)} if schema else {})}
    )
    tree = {
        "table": [{"name": "t", "rows": rows} | ({"values": values} if values else {})],
        "feature": [{"kind": "id", "name": "t", "column": "t", "table": "t"}],
        "task": [{"name": "like", "group": "g", "column": "like"}],
    }
    return RunSide(config, Schema.model_validate(tree), recorded or {})


def vocabulary(folder: Path, keys: list, first_row: int = 1, name: str = "vocabularies/t.parquet") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"value": keys, "row": np.arange(first_row, first_row + len(keys))}), path)
    return path


def table(rows: int) -> Table:
    return Table("t", rows, 4, True)


def hashed(seed: int = 0, kind: str = "integer") -> dict:
    return {"kind": "hash", "type": kind, "seed": seed}


@settings(max_examples=30, deadline=None)
@given(
    old=st.lists(st.integers(0, 30), unique=True, min_size=1),
    new=st.lists(st.integers(0, 30), unique=True, min_size=1),
    unknown=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    cut=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
def test_rows_by_key_are_a_dictionary(tmp_path_factory, old, new, unknown, cut):
    """unknown: rows of other keys there and here; cut: rows that keep_rows cuts off."""
    sides, tables = [], []
    for keys, extra, less in ((old, unknown[0], cut[0]), (new, unknown[1], cut[1])):
        folder = tmp_path_factory.mktemp("data")
        vocabulary(folder, keys, 1 + extra, "own.parquet")
        rows = 1 + extra + len(keys)
        values = {"kind": "vocabulary", "type": "integer", "file": "own.parquet", "unknown_rows": extra}
        sides.append(side(folder, rows, values))
        tables.append(table(max(1 + extra, rows - less)))
    rows, how = same_rows(*sides, *tables)
    expected = np.full(tables[1].rows, -1)
    expected[0] = 0
    if unknown[0] == unknown[1]:
        expected[1 : 1 + unknown[0]] = np.arange(1, 1 + unknown[0])
    for place, key in enumerate(new):
        row = 1 + unknown[1] + place
        there = 1 + unknown[0] + old.index(key) if key in old else tables[0].rows
        if row < tables[1].rows and there < tables[0].rows:
            expected[row] = there
    assert how == "by key"
    assert rows.tolist() == expected.tolist()


def test_the_vocabulary_lies_beside_the_schema(tmp_path):
    """Not in the data folder, where another one may be."""
    vocabulary(tmp_path / "data", [1, 2, 3])
    vocabulary(tmp_path / "schemas", [3, 2, 1])
    there = side(tmp_path / "data", 4, schema=tmp_path / "schemas" / "schema.toml")
    vocabulary(tmp_path / "new", [1, 2, 3])
    rows, how = same_rows(there, side(tmp_path / "new", 4), table(4), table(4))
    assert (rows.tolist(), how) == ([0, 3, 2, 1], "by key")


def test_columns_of_rows_are_matched_by_number(tmp_path):
    rows, how = same_rows(side(tmp_path, 4), side(tmp_path, 6), table(4), table(6))
    assert (rows.tolist(), how) == ([0, 1, 2, 3, -1, -1], "row by row")


@pytest.mark.parametrize(
    ("old", "new", "rows", "why"),
    [
        (hashed(), hashed(1), (9, 9), "with seed 0 there, 1 here"),
        (hashed(), hashed(), (9, 12), "to 9 rows there, 12 here"),
        (hashed(), hashed(kind="text"), (9, 9), "keys of type integer there, text here"),
        (hashed(), None, (9, 9), "hashed in one of both runs alone"),
    ],
)
def test_hashes_that_differ_match_no_row(tmp_path, old, new, rows, why):
    with pytest.raises(Unknown, match=why):
        same_rows(side(tmp_path, rows[0], old), side(tmp_path, rows[1], new), table(rows[0]), table(rows[1]))
    same, how = same_rows(side(tmp_path, 9, hashed()), side(tmp_path, 9, hashed()), table(9), table(9))
    assert (same.tolist(), how) == (list(range(9)), "row by row")


def test_a_vocabulary_on_one_side_or_another_one_matches_no_row(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    vocabulary(new, [1, 2, 3])
    with pytest.raises(Unknown, match=r"no vocabularies/t\.parquet beside the other run's schema"):
        same_rows(side(old, 4), side(new, 4), table(4), table(4))
    path = vocabulary(old, [1, 2, 3, 4])
    with pytest.raises(Unknown, match=r"has 4 keys for 6 rows: it is another vocabulary"):
        same_rows(side(old, 6), side(new, 4), table(6), table(4))
    recorded = vocabulary_hashes(side(old, 5).config, side(old, 5).schema)
    assert recorded == {"t": file_sha256(path)}
    assert same_rows(side(old, 5, recorded=recorded), side(new, 4), table(5), table(4))[0].tolist() == [0, 1, 2, 3]
    vocabulary(old, [4, 3, 2, 1])  # prepared anew in the same folder
    with pytest.raises(Unknown, match="is not the vocabulary that it was trained with"):
        same_rows(side(old, 5, recorded=recorded), side(new, 4), table(5), table(4))
    vocabulary(new, ["a", "b", "c"])
    with pytest.raises(Unknown, match="keys of different types"):
        same_rows(side(old, 5), side(new, 4), table(5), table(4))


def origin(keys: int, name: str, *grown_from: tuple[str, int]) -> Origin:
    def digest(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()

    ancestors = tuple(GrownFrom(sha256=digest(n), keys=k) for n, k in grown_from)
    return Origin(type="integer", file="vocabularies/t.parquet", sha256=digest(name), keys=keys, grown_from=ancestors)


def told(rows: int, of: Origin | None = None, means: str | None = None) -> RunSide:
    tree = {"name": "t", "rows": rows, "origin": of and of.model_dump(), "means": means}
    feature = {"kind": "id", "name": "f", "column": "f", "table": "t"}
    task = {"name": "like", "group": "g", "column": "like"}
    schema = Schema.model_validate({"table": [tree], "feature": [feature], "task": [task]})
    return RunSide(load("nowhere"), schema, {})


def load(path: str) -> RunConfig:
    return RunConfig.model_validate({"run": {"dir": "r"}, "data": {"path": path}})


@pytest.mark.parametrize(
    ("old", "new", "common"),
    [
        (origin(5, "a"), origin(5, "a"), 5),
        (origin(5, "a"), origin(8, "b", ("z", 2), ("a", 5)), 5),
        (origin(8, "b", ("z", 2), ("a", 5)), origin(5, "a"), 5),
    ],
)
def test_a_vocabulary_that_has_grown_is_matched_without_its_files(old, new, common):
    rows, how = same_rows(told(20, old), told(30, new), table(20), table(30))
    assert how == "by key"
    assert rows.tolist() == [n if n <= common else -1 for n in range(30)]


def test_vocabularies_of_another_origin_are_read(tmp_path):
    with pytest.raises(Unknown, match=r"no vocabularies/t\.parquet beside the other run's schema"):
        same_rows(told(9, origin(5, "a")), told(9), table(9), table(9))
    old, new = tmp_path / "old", tmp_path / "new"
    sides = []
    for folder, keys in ((old, [7, 3, 9]), (new, [9, 7, 4])):
        path = vocabulary(folder, keys)
        of = Origin(type="integer", file="vocabularies/t.parquet", sha256=file_sha256(path), keys=3)
        (folder / "schema.toml").touch()
        sides.append(RunSide(load(str(folder)), told(4, of).schema, {}))
    rows, how = same_rows(*sides, table(4), table(4))
    assert (rows.tolist(), how) == ([0, 3, 1, -1], "by key")
    vocabulary(old, [7, 3, 8])  # another one, fitted anew in its place
    with pytest.raises(Unknown, match="is not the one that the schema was fitted with"):
        same_rows(*sides, table(4), table(4))


def test_rows_that_stand_for_something_else_are_not_matched():
    with pytest.raises(Unknown, match=r"its rows are of hour, UTC\+8 h there, of hour, UTC\+7 h here"):
        same_rows(told(24, means="hour, UTC+8 h"), told(24, means="hour, UTC+7 h"), table(24), table(24))
    rows, how = same_rows(told(24), told(24, means="hour, UTC+7 h"), table(24), table(24))
    assert (rows.tolist(), how) == (list(range(24)), "row by row")
