"""A log in any format gives, byte for byte, the data that it gives as Parquet."""

import gzip
import json
from datetime import UTC, datetime, timedelta, timezone

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.orc as paorc
import pyarrow.parquet as pq
import pytest

from home_dist.errors import ConfigError, DataError
from home_dist.files.hashes import file_sha256
from home_dist.prepare.days import DAY_MS
from tests.prepare.test_going_on import FIRST_DAY, describe, make_days, prepare

DAYS = 4


def files(folder):
    return sorted((folder / "log").glob("*.parquet"))


def written(folder):
    """SHA-256 of the prepared rows and of the vocabularies."""
    out = folder / "data"
    return {str(p.relative_to(out)): file_sha256(p) for p in sorted(out.rglob("*.parquet")) if "state" not in p.parts}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parquet")
    make_days(folder, DAYS, rows=200)
    describe(folder, DAYS - 2)
    prepare(folder, "data")
    return written(folder)


def as_lines(table, path, delimiter=",", header=True, decimal=".", null="", encoding="utf-8", quote='"'):
    """A text per row; texts are quoted, missing values are `null`."""

    def told(value):
        if value is None:
            return null
        if isinstance(value, float):
            return repr(value).replace(".", decimal)
        return f"{quote}{value}{quote}" if isinstance(value, str) else str(value)

    lines = [delimiter.join(table.column_names)] * header
    lines += [delimiter.join(told(v) for v in row.values()) for row in table.to_pylist()]
    path.write_bytes(("\n".join(lines) + "\n").encode(encoding))


def as_json(table, path):
    text = "".join(json.dumps({k: v for k, v in row.items() if v is not None}) + "\n" for row in table.to_pylist())
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def as_iso(table, zone=None):
    """With the times as texts: with a zone, or without one as the clock at UTC+8 shows them."""

    def told(ms):
        at = datetime.fromtimestamp(ms / 1000, UTC).astimezone(zone or timezone(timedelta(hours=8)))
        return at.isoformat() if zone else at.replace(tzinfo=None).isoformat(sep=" ")

    return table.set_column(table.column_names.index("ms"), "ms", pa.array([told(t) for t in table["ms"].to_pylist()]))


COLUMNS = ["user", "ms", "video", "place", "like", "seconds"]
NAMED = "names = [" + ", ".join(f'"{c}"' for c in COLUMNS) + "]"
FORMATS = {
    "comma": ("csv", "", lambda t, p: as_lines(t, p)),
    "tab": ("tsv", "", lambda t, p: as_lines(t, p, "\t")),
    "no header": ("tsv", NAMED, lambda t, p: as_lines(t, p, "\t", header=False)),
    "european": (
        "txt",
        'delimiter = ";", decimal = ",", quote = "\'", nulls = ["(none)"], encoding = "utf-16"',
        lambda t, p: as_lines(t, p, ";", decimal=",", null="(none)", quote="'", encoding="utf-16"),
    ),
    "packed": ("csv.gz", "", lambda t, p: p.write_bytes(gzip.compress(lines_of(t)))),
    "orc": ("orc", "", lambda t, p: paorc.write_table(t, p)),
    "json": ("jsonl", "", as_json),
    "packed json": ("json.gz", "", as_json),
    "iso": ("csv", "", lambda t, p: as_lines(as_iso(t), p)),
    "zone": ("csv", "", lambda t, p: as_lines(as_iso(t, timezone(timedelta(hours=-3))), p)),
    "json with a zone": ("jsonl", "", lambda t, p: as_json(as_iso(t, UTC), p)),
    "json without a zone": ("jsonl", "", lambda t, p: as_json(as_iso(t), p)),
}


def lines_of(table):
    sink = pa.BufferOutputStream()
    pacsv.write_csv(table, sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("name", FORMATS)
def test_a_log_gives_the_same_data_in_every_format(name, expected, tmp_path):
    suffix, section, write = FORMATS[name]
    make_days(tmp_path, DAYS, rows=200)
    for path in files(tmp_path):
        write(pq.read_table(path), path.parent / f"{path.stem}.{suffix}")
        path.unlink()
    describe(tmp_path, DAYS - 2, f"format = {{ {section} }}\n")
    prepare(tmp_path, "data")
    assert written(tmp_path) == expected


def test_a_side_table_has_a_format_of_its_own(expected, tmp_path):
    make_days(tmp_path, DAYS, rows=200)
    table = pacsv.read_csv(tmp_path / "video.csv")
    (tmp_path / "video.csv").unlink()
    as_lines(table, tmp_path / "video.txt", "|", quote="")
    side = 'side = [{ files = "video.txt", key = "video", format = { delimiter = "|", quote = "" } }]'
    path = describe(tmp_path, DAYS - 2)
    path.write_text(path.read_text().replace('side = [{ files = "video.csv", key = "video" }]', side))
    for log in files(tmp_path):
        as_lines(pq.read_table(log), log.with_suffix(".csv"))
        log.unlink()
    # Tags hold the delimiter here: the line has too many values, and the file is named.
    with pytest.raises(DataError, match=r"video\.txt: cannot be read"):
        prepare(tmp_path, "data")
    as_lines(table, tmp_path / "video.txt", "\t", quote="")
    path.write_text(path.read_text().replace('delimiter = "|"', 'delimiter = "\\t"'))
    prepare(tmp_path, "data")
    assert written(tmp_path) == expected


def test_dates_are_midnights_of_the_local_calendar(tmp_path):
    make_days(tmp_path, DAYS, rows=50)
    for day, path in enumerate(files(tmp_path)):
        table = pq.read_table(path)
        dates = pa.array([FIRST_DAY + day] * len(table), pa.int32()).cast(pa.date32())
        paorc.write_table(table.set_column(1, "ms", dates), path.with_suffix(".orc"))
        path.unlink()
    describe(tmp_path, DAYS - 2)
    prepare(tmp_path, "data")
    times = {t for p in (tmp_path / "data/train").glob("*.parquet") for t in pq.read_table(p)["time_ms"].to_pylist()}
    assert times == {(FIRST_DAY + day) * DAY_MS - 8 * 3_600_000 for day in range(DAYS - 2)}


@pytest.mark.parametrize(
    ("text", "section", "error", "told"),
    [
        (
            "user\tms\tlike\nu1\t1\t0\n",
            "",
            DataError,
            r"a tab seems to stand between its values\. Say format = { delimiter = \"\\t\" }",
        ),
        ("user;ms;like\nu1;1;0\n", "", DataError, r"a semicolon seems to stand between its values"),
        ("user,ms\nu1,1\n", 'encoding = "martian"', ConfigError, r"format\.encoding: .*'martian' is no encoding"),
        ("user,ms\nu1,1\n", 'kind = "orc"', DataError, r"0\.csv: cannot be read"),
        ("user,ms\nu1,1\n", 'kind = "json", delimiter = ";"', ConfigError, r"delimiter is of csv alone, and .*0\.csv is json"),
        (
            '{"user": "u1", "ms": 1}\n{"user": 2, "ms": 1}\n',
            'kind = "json"',
            DataError,
            r"0\.csv: rows 1 to 2: .*Column\(/user\)",
        ),
        ('{"user": "u1"\n', 'kind = "json"', DataError, r"0\.csv: row 1 is no JSON object: .*One JSON object per line"),
        (
            "user,ms,video,place,like,seconds\nu1,2023-11-14 10:00:00,1,a,1,2\nu1,yesterday,1,a,1,2\n",
            "",
            DataError,
            r"0\.csv: column 'ms' holds 'yesterday' in row 2, which is no time as in ISO 8601",
        ),
        (
            "user,ms,video,place,like,seconds\nu1,2023-11-14 10:00:00,1,a,1,2\nu1,2023-11-14T10:00:00Z,1,a,1,2\n",
            "",
            DataError,
            r"holds times with a zone and times without one: '2023-11-14 10:00:00' in row 1, '2023-11-14T10:00:00Z' in row 2",
        ),
    ],
)
def test_what_cannot_be_read_is_told(text, section, error, told, tmp_path):
    make_days(tmp_path, 1, rows=5)
    (tmp_path / "log/00.parquet").unlink()
    (tmp_path / "log/0.csv").write_text(text)
    describe(tmp_path, 1, f"format = {{ {section} }}\n")
    with pytest.raises(error, match=told):
        prepare(tmp_path, "data")


def test_a_name_without_a_known_format_is_told(tmp_path):
    make_days(tmp_path, 1, rows=5)
    (tmp_path / "log/00.parquet").rename(tmp_path / "log/00.dat")
    describe(tmp_path, 1)
    with pytest.raises(ConfigError, match=r"00\.dat: its name tells no format"):
        prepare(tmp_path, "data")


def test_json_is_read_in_pieces_whose_types_differ(tmp_path, monkeypatch):
    monkeypatch.setattr("home_dist.prepare.formats.json_lines._BLOCK", 300)
    make_days(tmp_path, DAYS, rows=200)
    describe(tmp_path, DAYS - 2)
    for path in files(tmp_path):
        as_json(pq.read_table(path), path.with_suffix(".jsonl"))
        path.unlink()
    prepare(tmp_path, "data")
    pieces = written(tmp_path)
    monkeypatch.undo()
    (tmp_path / "data").rename(tmp_path / "before")
    prepare(tmp_path, "data")
    assert written(tmp_path) == pieces


def test_numbers_of_json_can_be_declared_texts(tmp_path):
    make_days(tmp_path, DAYS, rows=200)
    describe(tmp_path, DAYS - 2, 'types = { video = "text" }\n')
    prepare(tmp_path, "data")
    expected = written(tmp_path)
    (tmp_path / "data").rename(tmp_path / "before")
    for path in files(tmp_path):
        as_json(pq.read_table(path), path.with_suffix(".jsonl"))
        path.unlink()
    prepare(tmp_path, "data")
    assert written(tmp_path) == expected


def test_all_columns_that_do_not_fit_are_told_at_once(tmp_path):
    make_days(tmp_path, DAYS, rows=20)
    for path in files(tmp_path):
        table = pq.read_table(path)
        table = table.set_column(1, "ms", pa.array([[1]] * len(table)))
        table = table.set_column(4, "like", pa.array(["yes"] * len(table)))
        pq.write_table(table.drop_columns(["place", "seconds"]), path)
    describe(tmp_path, DAYS - 2)
    with pytest.raises(DataError) as refused:
        prepare(tmp_path, "data")
    told = str(refused.value).splitlines()
    assert len(told) == 4
    for column, problem in (
        ("ms", "has type list"),
        ("like", "has type string"),
        ("place", "is missing"),
        ("seconds", "is missing"),
    ):
        assert any(f"column {column!r} {problem}" in line for line in told), told


def with_side(folder, **columns):
    make_days(folder, DAYS, rows=20)
    table = pacsv.read_csv(folder / "video.csv")
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values(table[name].to_pylist())))
    pacsv.write_csv(table, folder / "video.csv")
    describe(folder, DAYS - 2)


def test_a_key_that_a_side_table_has_twice_is_told_with_its_rows(tmp_path):
    with_side(tmp_path, video=lambda v: [*v[:7], v[2], *v[8:]])
    with pytest.raises(DataError, match=r"stands 2 times, first in row 3 of .*video\.csv and row 8 of .*video\.csv; once"):
        prepare(tmp_path, "data")


def test_a_side_table_s_key_that_is_none_is_told_with_its_row(tmp_path):
    with_side(tmp_path, video=lambda v: [*v[:7], 0.5, *v[8:]])
    with pytest.raises(DataError, match=r"video\.csv: column 'video' in row 8: 0\.5 is no whole number"):
        prepare(tmp_path, "data")


def test_a_value_of_a_list_that_is_no_key_is_told_with_its_row(tmp_path):
    make_days(tmp_path, DAYS, rows=20)
    for number, log in enumerate(files(tmp_path)):
        one = pq.read_table(log)
        lists = [[1.0, 2.0], [], None] * 7
        if number == 1:
            lists[11] = [3.0]
            lists[12] = [4.0, 2.5]
        pq.write_table(one.append_column("words", pa.array(lists[: len(one)])), log)
    text = (describe(tmp_path, DAYS - 2).read_text()).replace("id = [", 'id = [{ column = "words" },', 1)
    (tmp_path / "mylog.toml").write_text(text)
    with pytest.raises(DataError, match=r"01\.parquet: column 'words' in row 13: 2\.5 is no whole number"):
        prepare(tmp_path, "data")


def test_a_value_that_does_not_fit_its_declared_type_is_told_with_its_row(tmp_path):
    make_days(tmp_path, DAYS, rows=20)
    for number, log in enumerate(files(tmp_path)):
        values = [str(n) for n in range(20)]
        if number == 2:
            values[4] = "four"
        pq.write_table(pq.read_table(log).append_column("words", pa.array(values)), log)
    text = describe(tmp_path, DAYS - 2, 'types = { words = "integer" }\n').read_text()
    (tmp_path / "mylog.toml").write_text(text.replace("id = [", 'id = [{ column = "words" },', 1))
    with pytest.raises(DataError, match=r"02\.parquet: column 'words' holds 'four' in row 5, but int64 is needed"):
        prepare(tmp_path, "data")
