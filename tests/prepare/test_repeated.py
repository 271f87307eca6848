"""Rows of one user that are alike: counted against a loop, kept or merged."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from home_dist.prepare.generic import LogOptions, prepare_log
from home_dist.prepare.generic.repeated import contents
from home_dist.prepare.summary import part_lines
from home_dist.schema import load_schema
from home_dist.schema.meaning import differences, without_told
from tests.prepare.test_engine import DESCRIPTION, QUIET, digest, write

TIMES = 7


def logged_again(folder, often=TIMES):
    """The log of test_engine as one Parquet file, and another folder whose log has some rows several times, far apart."""
    write(folder / "once")
    table = pq.read_table(folder / "once" / "log" / "1.parquet")
    for path in (folder / "once" / "log").iterdir():
        path.unlink()
    random = np.random.default_rng(1)
    content = sorted({tuple(r.values()) for r in table.to_pylist()}, key=repr)
    once = pa.Table.from_pylist([dict(zip(table.column_names, row, strict=True)) for row in content], schema=table.schema)
    once = once.take(pa.array(random.permutation(len(once))))
    pq.write_table(once, folder / "once" / "log" / "1.parquet")
    known = np.flatnonzero(np.asarray(once.column("user").is_valid()))
    again = once.take(pa.array(np.repeat(random.choice(known, 20, replace=False), often)))
    write(folder / "again")
    for path in (folder / "again" / "log").iterdir():
        path.unlink()
    pq.write_table(once, folder / "again" / "log" / "1.parquet")
    pq.write_table(again, folder / "again" / "log" / "2.parquet")
    return len(once), len(again)


def prepared(folder, repeated="keep", **options):
    (folder / "mylog.toml").write_text(f'repeated = "{repeated}"\n{DESCRIPTION}')
    return prepare_log(folder / "mylog.toml", folder / f"out-{repeated}", QUIET, LogOptions(**options))


@pytest.mark.parametrize("partitions", [1, 5])
def test_they_are_counted_and_merged_they_are_as_if_they_had_never_been(tmp_path, partitions):
    rows, more = logged_again(tmp_path)
    alone = prepared(tmp_path / "once", partitions=1)
    assert alone["repeated_rows"] == {"rows": 0, "users": 0, "most": 0, "merged": False}
    kept = prepared(tmp_path / "again", partitions=partitions)
    assert kept["rows_in"] == rows + more
    assert kept["repeated_rows"]["rows"] == more
    assert 1 <= kept["repeated_rows"]["users"] <= 20
    assert kept["repeated_rows"]["most"] >= TIMES
    assert kept["rows_out"] + kept["rows_before_the_training_days"] == rows + more
    assert any(f"{more:,} rows of" in line and 'repeated = "merge"' in line for line in part_lines(kept))
    merged = prepared(tmp_path / "again", "merge", partitions=partitions)
    assert merged["repeated_rows"] == {**kept["repeated_rows"], "merged": True}
    assert merged["rows_out"] + merged["rows_before_the_training_days"] == rows
    assert any("left out, as the description says" in line for line in part_lines(merged))
    data, expected = digest(tmp_path / "again" / "out-merge"), digest(tmp_path / "once" / "out-keep")
    other = ("report.json", "schema.toml")  # the schema says that rows are counted once
    assert {n: d for n, d in data.items() if n not in other} == {n: d for n, d in expected.items() if n not in other}
    schemas = [load_schema(tmp_path / place / "schema.toml") for place in ("again/out-merge", "once/out-keep")]
    assert without_told(schemas[0]) == without_told(schemas[1])
    assert "repeated rows once" in str(differences(*schemas))


def test_rows_without_a_user_have_nothing_in_common(tmp_path):
    write(tmp_path)
    table = pq.read_table(tmp_path / "log" / "1.parquet")
    for path in (tmp_path / "log").iterdir():
        path.unlink()
    nobody = table.filter(pa.compute.is_null(table.column("user")))
    pq.write_table(pa.concat_tables([table, nobody, nobody]), tmp_path / "log" / "1.parquet")
    report = prepared(tmp_path, "merge")
    rows = table.filter(pa.compute.is_valid(table.column("user")))
    distinct = len({tuple(r.values()) for r in rows.to_pylist()})
    assert report["repeated_rows"]["rows"] == len(rows) - distinct


SHOPS = """
log = "log/*"
user = "user"
time = "ms"
utc_offset_hours = 0
train_files = 1
repeated = "merge"
split = { train_days = 2, validation_days = 1, test_days = 1 }
label = [{ name = "like", group = "a", column = "like" }]
id = [{ column = "user", min_count = 1 }]
past = [{ by = ["shop"], rates = ["like"] }]
"""


def test_rows_that_differ_in_a_key_alone_are_not_alike(tmp_path):
    """A request shows several shops; the shop is neither an id nor in a key with the user."""
    day, first = 86_400_000, 19_675 * 86_400_000
    rows = [("u", first, f"shop{k}", 1) for k in range(8)] + [("u", first, "shop0", 1)]
    rows += [("v", first + day + 1000 * k, f"shop{k}", 0) for k in range(8)]
    rows += [("w", first + days * day, "shop0", 0) for days in (2, 3)]
    (tmp_path / "log").mkdir()
    columns = zip(*rows, strict=True)
    pq.write_table(pa.table(dict(zip(["user", "ms", "shop", "like"], columns, strict=True))), tmp_path / "log" / "0.parquet")
    (tmp_path / "log.toml").write_text(SHOPS)
    for partitions in (1, 3, 8):
        out = tmp_path / f"out{partitions}"
        report = prepare_log(tmp_path / "log.toml", out, QUIET, LogOptions(partitions=partitions))
        assert report["repeated_rows"]["rows"] == 1
        train = pa.concat_tables([pq.read_table(p) for p in sorted((out / "train").glob("*.parquet"))])
        count = np.expm1(train.column("stat_shop_count").to_numpy().astype(float))
        assert sorted(np.round(count)) == [0] * 8 + [1] * 8
        assert digest(out) == digest(tmp_path / "out1")


VALUES = st.tuples(
    st.sampled_from(["u1", "u2", "ab"]),
    st.integers(-1, 1),
    st.sampled_from([0.0, -0.0, 1.5, float("nan")]),
    st.lists(st.sampled_from(["a", "b", "ab"]), max_size=3),
)


@settings(max_examples=100)
@given(st.lists(VALUES, min_size=1, max_size=40))
def test_contents_are_alike_where_rows_are(rows):
    users, numbers, floats, lists = zip(*rows, strict=True)
    table = pa.table(
        {
            "row": np.arange(len(rows)),
            "user": pa.array(users, pa.string()),
            "id_a": pa.array(numbers, pa.int64()),
            "number_b": pa.array(floats, pa.float64()),
            "id_c": pa.array(lists, pa.list_(pa.string())),
        }
    )
    found = contents(table).tolist()
    for i, one in enumerate(rows):
        for j, other in enumerate(rows[:i]):
            like = one[0] == other[0] and one[1] == other[1] and one[3] == other[3]
            like = like and (one[2] == other[2] or (one[2] != one[2] and other[2] != other[2]))
            assert (found[i] == found[j]) == like
