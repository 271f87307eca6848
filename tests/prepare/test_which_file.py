"""One file of many that is not like the others: the message names it, its row and its value, and no other."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from home_dist.errors import DataError
from home_dist.insight.prepared_page import write_page
from home_dist.prepare.formats.converting import CONVERTED, convert
from home_dist.prepare.generic import LogOptions, prepare_log
from home_dist.prepare.summary import part_lines
from tests.prepare.test_engine import DESCRIPTION, QUIET, digest, write

FILES, BAD = 12, 7


def split_log(folder, change):
    """The log of test_engine in FILES Parquet files, one of them changed."""
    write(folder)
    table = pa.concat_tables([pq.read_table(folder / "log" / f"{n}.parquet") for n in (1, 2)])
    for path in (folder / "log").iterdir():
        path.unlink()
    bounds = [len(table) * n // FILES for n in range(FILES + 1)]
    for number, (first, last) in enumerate(zip(bounds, bounds[1:], strict=False)):
        part = table.slice(first, last - first)
        pq.write_table(change(part) if number == BAD else part, folder / "log" / f"day-{number:02d}.parquet")
    (folder / "mylog.toml").write_text(DESCRIPTION)
    return table


def prepared(folder):
    return prepare_log(folder / "mylog.toml", folder / "out", QUIET, LogOptions())


def replaced(table, name, values):
    return table.set_column(table.column_names.index(name), name, values)


def with_null_time(table):
    return replaced(table, "ms", pc.if_else(pa.array(np.arange(len(table)) == 4), None, table.column("ms")))


def with_bad_label(table):
    return replaced(table, "like", pa.array(np.where(np.arange(len(table)) == 9, 2, table.column("like").to_numpy())))


def with_late_time(table):
    return replaced(table, "ms", pa.array(np.where(np.arange(len(table)) == 2, 10**15, table.column("ms").to_numpy())))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda t: replaced(t, "video", t.column("video").cast(pa.string())),
            ["column 'video'", "string", "11 others as int64"],
        ),
        (lambda t: replaced(t, "seconds", t.column("seconds").cast(pa.string())), ["column 'seconds'", "string", "double"]),
        (lambda t: replaced(t, "video", pa.array([[1]] * len(t))), ["column 'video'", "list", "11 others as int64"]),
        (with_null_time, ["column 'ms' has 1 empty values, the first in row 5"]),
        (with_bad_label, ["column 'like' of label 'like' holds 2 in row 10; 0 or 1 is needed"]),
        (with_late_time, ["column 'ms' holds 1000000000000000 in row 3, which is no time since 1970 in ms"]),
    ],
)
def test_what_does_not_fit_is_named_with_its_file_alone(tmp_path, change, says):
    split_log(tmp_path, change)
    with pytest.raises(DataError) as error:
        prepared(tmp_path)
    told = str(error.value)
    for part in [f"day-{BAD:02d}.parquet", *says]:
        assert part in told, told
    assert told.count("day-") == 1


def test_rows_that_leave_the_parts_are_told_with_their_file_and_why(tmp_path):
    """A file in seconds where milliseconds are meant: its rows are of January 1970."""
    rows = split_log(tmp_path, lambda t: replaced(t, "ms", pc.divide(t.column("ms"), 1000)))
    report = prepared(tmp_path)
    early = [f for f in report["files_before_the_training_days"] if f["file"].endswith(f"day-{BAD:02d}.parquet")]
    count = len(rows) * (BAD + 1) // FILES - len(rows) * BAD // FILES
    assert [(f["rows"], f["first"][:7], f["last"][:7]) for f in early] == [(count, "1970-01", "1970-01")]
    assert sum(f["rows"] for f in report["files_before_the_training_days"]) == report["rows_before_the_training_days"]
    lines = list(part_lines(report))
    note = next(line for line in lines if "are in no part" in line)
    assert "older than the first training day" in note
    assert f"{early[0]['rows']:,} of " in note
    assert f"day-{BAD:02d}.parquet (1970-01-" in note
    warning = next(line for line in lines if line.startswith("WARNING"))
    assert f"day-{BAD:02d}.parquet" in warning
    assert "another unit" in warning
    write_page(report, tmp_path / "page.html")
    assert f"day-{BAD:02d}.parquet" in (tmp_path / "page.html").read_text()


def test_a_column_that_one_file_does_not_have_is_told(tmp_path):
    split_log(tmp_path, lambda t: t.drop_columns(["place"]))
    report = prepared(tmp_path)
    assert list(report["files_without_a_column"]) == ["place"]
    note = next(line for line in part_lines(report) if "'place' is missing in" in line)
    assert f"day-{BAD:02d}.parquet: its rows have no value there" in note


def test_a_file_without_rows_says_nothing_of_types(tmp_path):
    split_log(tmp_path, lambda t: t)
    expected = prepared(tmp_path)
    empty = pa.table({"video": pa.nulls(0, pa.list_(pa.string())), "like": pa.nulls(0)})
    pq.write_table(empty, tmp_path / "log" / "empty.parquet")
    report = prepare_log(tmp_path / "mylog.toml", tmp_path / "out-2", QUIET, LogOptions())
    assert report == expected


CODES = ["12e4", "120000", "007", "7", "1_0", "NA"]


def coded_log(folder, kind):
    """Users and videos by codes that look like numbers, with the side table's key among them; \\N where there is none."""
    random = np.random.default_rng(0)
    rows = 400
    codes = [CODES[n] if n < len(CODES) else None for n in random.integers(0, len(CODES) + 1, rows).tolist()]
    log = pa.table(
        {
            "user": pa.array(codes, pa.string()),
            "ms": 1_700_000_000_000 + random.integers(0, 5 * 24 * 60, rows) * 60_000,
            "video": pa.array(random.permutation(codes), pa.string()),
            "like": random.integers(0, 2, rows),
            "seconds": pa.array(random.integers(0, 9, rows), mask=random.random(rows) < 0.1),
        }
    )
    side = pa.table({"video": CODES, "length": list(range(len(CODES)))})
    folder.mkdir()
    if kind == "csv":
        for name, table in (("log", log), ("side", side)):
            lines = [",".join("\\N" if v is None else str(v) for v in row.values()) for row in table.to_pylist()]
            (folder / f"{name}.csv").write_text("\n".join([",".join(table.column_names), *lines, ""]))
    else:
        pq.write_table(log, folder / "log.parquet")
        pq.write_table(side, folder / "side.parquet")
    (folder / "mylog.toml").write_text(
        f"""
        log = "log.{kind}"
        user = "user"
        time = "ms"
        types = {{ user = "text", video = "text" }}
        split = {{ train_days = 3, validation_days = 1, test_days = 1 }}
        side = [{{ files = "side.{kind}", key = "video" }}]
        label = [{{ name = "like", group = "a", column = "like" }}]
        id = [{{ column = "video", min_count = 1 }}]
        number = [{{ column = "length" }}, {{ column = "seconds" }}]
        past = [{{ by = ["video"], rates = ["like"] }}, {{ by = ["user"], rates = ["like"] }}]
        """
    )
    return folder


def test_codes_that_look_like_numbers_are_the_same_ids_from_csv_and_from_texts(tmp_path):
    """And no \\N is an id."""
    of_csv, of_texts = (coded_log(tmp_path / kind, kind) for kind in ("csv", "parquet"))
    for folder in (of_csv, of_texts):
        prepared(folder)
    assert sorted(pq.read_table(of_csv / "out" / "vocabularies" / "video.parquet").column("value").to_pylist()) == sorted(CODES)
    left, right = ({n: d for n, d in digest(f / "out").items() if n != "report.json"} for f in (of_csv, of_texts))
    assert left == right


def test_a_declared_type_that_cannot_be_is_told(tmp_path):
    folder = coded_log(tmp_path / "log", "parquet")
    text = (folder / "mylog.toml").read_text()
    (folder / "mylog.toml").write_text(text.replace("types = { user", "types = { usr"))
    with pytest.raises(DataError, match="types: column 'usr' is in no file"):
        prepared(folder)
    (folder / "mylog.toml").write_text(text)
    table = pq.read_table(folder / "log.parquet")
    pq.write_table(replaced(table, "video", pa.array([1.5] * len(table))), folder / "log.parquet")
    with pytest.raises(DataError, match=r"log.parquet: column 'video' has type double, but the description says text"):
        prepared(folder)


def test_a_number_declared_in_csv_is_told_where_it_is_none(tmp_path):
    folder = coded_log(tmp_path / "log", "csv")
    text = (folder / "mylog.toml").read_text().replace('video = "text"', 'video = "integer"')
    (folder / "mylog.toml").write_text(text)
    with pytest.raises(DataError, match=r"(log|side).csv: In CSV column #.*conversion error to int64"):
        prepared(folder)


def test_whole_numbers_beyond_63_bits_in_csv_stay_whole(tmp_path):
    values = [2**63 + 5, 3, 2**64 - 1]
    (tmp_path / "log.csv").write_text("id,share\n" + "".join(f"{v},{v / 2**64}\n" for v in values))
    convert(tmp_path / "log.csv", tmp_path)
    table = pq.read_table(tmp_path / CONVERTED)
    assert table.schema.field("id").type == pa.uint64()
    assert table["id"].to_pylist() == values
    assert table.schema.field("share").type == pa.float64()
