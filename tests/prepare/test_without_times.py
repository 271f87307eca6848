"""Logs without users or times, and splits that do not go by days."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from home_dist.errors import ConfigError, DataError
from home_dist.insight.prepared_page import write_page
from home_dist.prepare.days import SPLITS
from home_dist.prepare.generic import LogOptions, prepare_log
from home_dist.prepare.generic.log_spec import LogSpec, load_spec
from home_dist.prepare.progress import Progress
from home_dist.prepare.summary import part_lines
from home_dist.schema import load_schema
from tests.prepare.test_formats import written
from tests.prepare.test_going_on import DESCRIPTION, FIRST_DAY, QUIET, make_days

DAYS = 5
TIMELESS = (
    DESCRIPTION.replace('time = "ms"\nutc_offset_hours = 8\n', "")
    .replace('  { by = ["video"], rates = ["like"], days = 1.5 },\n', "")
    .replace(', until = "morning"', "")
    .replace(", days = 2 }", " }")
)
ORDERED = 'order = "files"\nsplit = { by = "files", train = 3, validation = 1, test = 1 }\n' + TIMELESS
PLAIN = TIMELESS.partition("past = [")[0]
RANDOM = 'split = { by = "random", validation = 0.2, test = 0.1 }\n' + PLAIN


def numbered(folder, rows=200):
    """A file per day, whose rows are some ms after each other, with their numbers."""
    make_days(folder, DAYS, rows=rows)
    for day, path in enumerate(files(folder)):
        table = pq.read_table(path)
        start = (FIRST_DAY + day) * 86_400_000 - 8 * 3_600_000
        table = table.set_column(1, "ms", pa.array(start + 7 * np.arange(len(table))))
        pq.write_table(table.append_column("n", pa.array(day * rows + np.arange(len(table)))), path)


def files(folder):
    return sorted((folder / "log").glob("*.parquet"))


def prepared(folder, text, out="data", **options):
    (folder / "mylog.toml").write_text(text)
    return prepare_log(folder / "mylog.toml", folder / out, QUIET, LogOptions(**{"partitions": 3} | options))


def rows_of(out):
    """By split, the rows in the order of their numbers."""
    found = {}
    for split in SPLITS:
        paths = sorted((out / split).glob("*.parquet"))
        found |= {split: pa.concat_tables([pq.read_table(p) for p in paths]).sort_by("keep_n")} if paths else {}
    return found


def test_the_order_of_rows_serves_as_their_time(tmp_path):
    """Past, histories, statistics and vocabularies are those of the same log with times that increase from row to row."""
    numbered(tmp_path)
    timed = ORDERED.replace('order = "files"\n', 'time = "ms"\nutc_offset_hours = 8\ncalendar = false\n')
    timed = timed.replace(
        'by = "files", train = 3, validation = 1, test = 1', "train_days = 3, validation_days = 1, test_days = 1"
    )
    timed = timed.replace("most = ", "age = false, most = ")
    prepared(tmp_path, timed, "timed", keep=("n",))
    report = prepared(tmp_path, ORDERED, keep=("n",))
    expected, found = rows_of(tmp_path / "timed"), rows_of(tmp_path / "data")
    for split in SPLITS:
        assert found[split].equals(expected[split].drop_columns(["time_ms"])), split
    assert sum(map(len, found["train"]["seen_video"].to_pylist())) > len(found["train"])
    schema = load_schema(tmp_path / "data/schema.toml")
    assert (schema.group_column, schema.time_column) == ("group", None)
    assert not (tmp_path / "data/state").exists()
    lines = list(part_lines(report))
    assert lines[0].startswith("train: file 1 to file 3, 600 rows, ")
    write_page(report, tmp_path / "page.html")


def test_the_order_does_not_depend_on_how_the_log_is_cut(tmp_path, monkeypatch):
    numbered(tmp_path)
    prepared(tmp_path, ORDERED)
    expected = written(tmp_path)
    monkeypatch.setattr("home_dist.prepare.generic.sizes._CHUNK_ROWS", (60, 70))
    for number, options in enumerate(({"partitions": 1}, {"partitions": 7})):
        (tmp_path / "data").rename(tmp_path / f"before{number}")
        prepared(tmp_path, ORDERED, **options)
        assert written(tmp_path) == expected


def test_a_later_row_changes_nothing_before_it(tmp_path):
    """No leak: rows from the middle of a file on are changed."""
    numbered(tmp_path)
    prepared(tmp_path, ORDERED, "one", keep=("n",))
    path = files(tmp_path)[2]
    table = pq.read_table(path)
    changed = pa.array(np.where(np.arange(len(table)) >= 100, 1 - table["like"].to_numpy(), table["like"].to_numpy()))
    pq.write_table(table.set_column(table.column_names.index("like"), "like", changed), path)
    prepared(tmp_path, ORDERED, "two", keep=("n",))
    one, two = (rows_of(tmp_path / name)["train"].slice(0, 500) for name in ("one", "two"))
    assert one["seen_outcome"].equals(two["seen_outcome"])
    assert one["liked_video"].equals(two["liked_video"])
    assert rows_of(tmp_path / "one")["train"]["label_like"] != rows_of(tmp_path / "two")["train"]["label_like"]


def test_files_whose_numbers_have_no_leading_zeros_are_told(tmp_path):
    numbered(tmp_path, rows=50)
    for path, name in zip(files(tmp_path), (8, 9, 10, 11, 12), strict=True):
        path.rename(path.with_name(f"week_{name}.parquet"))
    (tmp_path / "mylog.toml").write_text(ORDERED)
    told = []
    prepare_log(tmp_path / "mylog.toml", tmp_path / "data", Progress(told.append), LogOptions(partitions=1))
    assert any("takes log/week_10.parquet before log/week_8.parquet" in line for line in told)


def test_a_random_split_depends_on_the_row_alone(tmp_path, monkeypatch):
    numbered(tmp_path, rows=400)
    report = prepared(tmp_path, RANDOM, keep=("n",))
    found = {split: set(t["keep_n"].to_pylist()) for split, t in rows_of(tmp_path / "data").items()}
    assert sorted(n for part in found.values() for n in part) == list(range(DAYS * 400))
    for split, share in (("validation", 0.2), ("test", 0.1)):
        assert len(found[split]) == pytest.approx(share * 2000, abs=4 * np.sqrt(2000 * share))
    assert next(part_lines(report)).startswith(f"train: all rows, {len(found['train']):,} rows, ")
    assert "hour" not in rows_of(tmp_path / "data")["train"].column_names
    write_page(report, tmp_path / "page.html")
    monkeypatch.setattr("home_dist.prepare.generic.sizes._CHUNK_ROWS", (60, 70))
    prepared(tmp_path, RANDOM, "cut", keep=("n",), partitions=7)
    assert {s: set(t["keep_n"].to_pylist()) for s, t in rows_of(tmp_path / "cut").items()} == found
    files(tmp_path)[1].unlink()
    prepared(tmp_path, RANDOM, "fewer", keep=("n",))
    fewer = {s: set(t["keep_n"].to_pylist()) for s, t in rows_of(tmp_path / "fewer").items()}
    assert fewer == {s: {n for n in part if not 400 <= n < 800} for s, part in found.items()}
    prepared(tmp_path, RANDOM.replace("test = 0.1", "test = 0.1, seed = 1"), "seed", keep=("n",))
    assert rows_of(tmp_path / "seed")["test"]["keep_n"].to_pylist() != sorted(fewer["test"])


def test_rows_of_one_key_stay_together(tmp_path):
    numbered(tmp_path)
    prepared(tmp_path, RANDOM.replace("test = 0.1", 'test = 0.3, key = ["user"]'), keep=("user", "n"))
    users = {split: set(t["keep_user"].drop_null().to_pylist()) for split, t in rows_of(tmp_path / "data").items()}
    assert all(users.values())
    assert not users["train"] & users["test"] | users["train"] & users["validation"] | users["test"] & users["validation"]
    nobody = {split: t["keep_user"].null_count for split, t in rows_of(tmp_path / "data").items()}
    assert all(nobody.values())  # rows without a user go by their place


def test_random_and_past(tmp_path):
    """With times the past goes by them, whatever part a row is in."""
    numbered(tmp_path)
    split = 'split = { by = "random", validation = 0.2, test = 0.1 }\n'
    prepared(tmp_path, "split = { train_days = 3, validation_days = 1, test_days = 1 }\n" + DESCRIPTION, "days", keep=("n",))
    prepared(tmp_path, split + DESCRIPTION, keep=("n",))
    one, two = (pa.concat_tables(list(rows_of(tmp_path / name).values())).sort_by("keep_n") for name in ("days", "data"))
    assert one["seen_outcome"].equals(two["seen_outcome"])
    assert one["hour"].equals(two["hour"])


def test_a_column_tells_the_parts(tmp_path):
    numbered(tmp_path)
    expected = {"train": [], "validation": [], "test": [], "no": []}
    for path in files(tmp_path):
        table = pq.read_table(path)
        part = np.random.default_rng(len(expected["no"])).choice(["train", "val", "b", "test", "no"], len(table))
        for n, name in zip(table["n"].to_pylist(), part.tolist(), strict=True):
            expected[{"val": "validation", "b": "train"}.get(name, name)].append(n)
        values = pa.array([None if p == "no" and n % 2 else p for n, p in enumerate(part.tolist())])
        pq.write_table(table.append_column("part", values), path)
    split = 'split = { by = "column", column = "part", train = ["train", "b"], validation = ["val"], test = ["test"] }\n'
    report = prepared(tmp_path, split + PLAIN, keep=("n",))
    assert {s: t["keep_n"].to_pylist() for s, t in rows_of(tmp_path / "data").items()} == {s: expected[s] for s in SPLITS}
    assert report["rows_in_no_part"] == len(expected["no"])
    assert any(f"{len(expected['no']):,} rows are in no part" in line for line in part_lines(report))
    with pytest.raises(
        DataError, match=r"column 'part' holds 'vall' in no row: the validation part .*'b', 'no', 'test', 'train'"
    ):
        prepared(tmp_path, split.replace('"val"', '"vall"') + PLAIN, "wrong")
    with pytest.raises(DataError, match=r"column 'seconds' has type double, but texts, whole numbers, booleans or dates"):
        prepared(tmp_path, split.replace('"part"', '"seconds"') + PLAIN, "wrong")
    with pytest.raises(ConfigError, match=r"'b' is given twice"):
        prepared(tmp_path, split.replace('"val"', '"b"') + PLAIN, "wrong")


def test_a_column_of_booleans_tells_the_parts(tmp_path):
    numbered(tmp_path)
    for path in files(tmp_path):
        table = pq.read_table(path)
        pq.write_table(table.append_column("held", pa.array(n % 5 == 0 for n in table["n"].to_pylist())), path)
    prepared(tmp_path, 'split = { by = "column", column = "held", train = [false], test = [true] }\n' + PLAIN, keep=("n",))
    found = {s: t["keep_n"].to_pylist() for s, t in rows_of(tmp_path / "data").items()}
    assert found["train"] == [n for n in range(1000) if n % 5]
    assert found["test"] == list(range(0, 1000, 5))


def test_a_log_without_users(tmp_path):
    """Rows are those of the log; what is known before them is that of everyone."""
    numbered(tmp_path)
    text = ORDERED.partition("history = [")[0].replace('user = "user"\n', "")
    text = text.replace('  { by = ["user"], rates = ["like"] },\n', "").replace(
        '  { by = ["place", "user"], rates = ["view"] },\n', ""
    )
    report = prepared(tmp_path, text, keep=("n",))
    prepared(tmp_path, ORDERED, "users", keep=("n",))
    found, expected = rows_of(tmp_path / "data")["train"], rows_of(tmp_path / "users")["train"]
    assert found["stat_video_like"].equals(expected["stat_video_like"])
    assert "group" not in found.column_names
    assert load_schema(tmp_path / "data/schema.toml").group_column is None
    assert next(part_lines(report)).startswith("train: file 1 to file 3, 600 rows; positives:")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("order", "no"), r"split: days need time = \"COLUMN\"\. Without times, say split = \{ by = \"random\""),
        (('order = "files"', 'order = "files"\ntime = "ms"'), r"order: rows are in the order of time = 'ms'"),
        (('order = "files"', 'calendar = true\norder = "files"'), r"calendar: hour and weekday need time"),
        (('order = "files"', 'order = "files"\nforget_days = 3'), r"forget_days: has no effect without time"),
        (('order = "files"', 'order = "files"\ntime_zone = "Europe/Berlin"'), r"time_zone: has no effect without time"),
        (('order = "files"', 'order = "files"\nutc_offset_hours = 8'), r"utc_offset_hours: has no effect without time"),
        (('by = ["user"],', 'by = ["user"], days = 2,'), r"past by user: days needs time"),
        (('by = ["user"],', 'by = ["user"], until = "morning",'), r"past by user: until needs time"),
        (("most = 5", "most = 5, age = true"), r"history 'seen': age needs time"),
        (('order = "files"', 'order = "files"\nrepeated = "merge"'), r"repeated: only rows of one moment are merged"),
        (('user = "user"\n', ""), r"history 'seen': needs user = \"COLUMN\""),
        (('order = "files"\n', ""), r"split: by = \"files\" needs order = \"files\""),
        (('by = "files", train = 3,', 'by = "random",'), r"split\.validation: .*less than 1"),
        (('by = "files"', 'by = "weeks"'), r"split\.by: must be one of 'days', 'files', 'random', 'column' \(given: 'weeks'\)"),
    ],
)
def test_what_needs_a_time_or_a_user_is_told(change, told, tmp_path):
    text = ORDERED.replace(*change)
    if change == ("order", "no"):
        text = "split = { train_days = 3, validation_days = 1, test_days = 1 }\n" + PLAIN
    (tmp_path / "mylog.toml").write_text(text)
    with pytest.raises(ConfigError, match=told):
        load_spec(tmp_path / "mylog.toml")


def test_past_without_an_order_is_refused_by_name(tmp_path):
    (tmp_path / "mylog.toml").write_text(RANDOM + "past = [" + TIMELESS.partition("past = [")[2])
    with pytest.raises(ConfigError, match=r'past by video: counts earlier rows: give time = "COLUMN", or order = "files"'):
        load_spec(tmp_path / "mylog.toml")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"like": True}, "--like: needs days, but the description has no time"),
        ({"last_day": 5}, "--last-day: needs days, but the description has no time"),
    ],
)
def test_options_that_need_days_are_refused(options, told, tmp_path):
    numbered(tmp_path, rows=20)
    options = {**options, **({"like": tmp_path} if "like" in options else {})}
    with pytest.raises(ConfigError, match=told):
        prepared(tmp_path, ORDERED, **options)


def test_too_few_files_are_told(tmp_path):
    numbered(tmp_path, rows=20)
    with pytest.raises(
        DataError, match=r"split\.train = 1: .*the log's files are file 1 to file 5\. Choose fewer files"
    ) as error:
        prepared(tmp_path, ORDERED.replace("train = 3, validation = 1, test = 1", "validation = 1, test = 6"))
    assert "days" not in str(error.value)


def test_a_description_says_the_same_after_it_was_written(tmp_path):
    (tmp_path / "mylog.toml").write_text(ORDERED)
    spec = load_spec(tmp_path / "mylog.toml")
    assert LogSpec.model_validate(spec.model_dump(mode="json")) == spec
