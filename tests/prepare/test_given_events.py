"""Histories of other events than the log's impressions: of a flat table, of a nested one, and of lists in the log's rows."""

from bisect import bisect_left

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from home_dist.errors import ConfigError, DataError
from home_dist.prepare.days import DAY_MS
from home_dist.prepare.generic import LogOptions, prepare_log
from home_dist.prepare.generic.history import AGE_BOUNDS_MS
from home_dist.prepare.generic.log_spec import load_spec
from home_dist.prepare.generic.state import Base
from home_dist.prepare.online import OnlineColumns, UnfitColumn
from home_dist.schema import load_schema
from tests.prepare.next_day import inputs_of
from tests.prepare.test_going_on import FIRST_DAY, QUIET, digests

DAYS, ROWS, MOST = 5, 300, 4
TEXT = """
log = "log/*.parquet"
user = "user"
time = "ms"
train_files = 1
split = { train_days = 3, validation_days = 1, test_days = 1 }
label = [{ name = "like", group = "a", column = "like" }]
id = [{ column = "video", min_count = 1 }, { column = "shop", min_count = 1 }]
"""
FLAT = 'events = { files = "bought/*", user = "buyer", time = "at", columns = { video = "sku" }, outcomes = ["returned"] }'
NESTED = FLAT.replace('"buyer",', '"buyer", column = "orders",')
OWN = 'events = { column = "orders", time = "at", columns = { video = "sku" }, outcomes = ["returned"] }'
HISTORY = '\nhistory = [{{ name = "bought", fields = ["video", "shop"], most = 4, {} }}]\n'


def make(folder, seed=0, rows=ROWS):
    """A log, and purchases of its users and of others; many are of an impression's very moment. Returns both."""
    random = np.random.default_rng(seed)
    (folder / "log").mkdir(parents=True)
    (folder / "bought").mkdir()
    users = [f"u{n}" for n in range(12)]
    log = pa.table(
        {
            "n": np.arange(rows),
            "user": pa.array([None if random.random() < 0.1 else users[random.integers(0, 8)] for _ in range(rows)]),
            "ms": np.sort(FIRST_DAY * DAY_MS + random.integers(0, DAYS * 24, rows) * 3_600_000),
            "video": random.integers(0, 20, rows),
            "shop": [f"s{s}" for s in random.integers(0, 5, rows)],
            "like": random.integers(0, 2, rows),
        }
    )
    count = 2 * rows
    bought = pa.table(
        {
            "buyer": pa.array([None if random.random() < 0.05 else users[random.integers(0, 12)] for _ in range(count)]),
            "at": FIRST_DAY * DAY_MS + random.integers(-48, DAYS * 24, count) * 3_600_000,
            "sku": pa.array(random.integers(0, 25, count), mask=random.random(count) < 0.1),
            "shop": pa.array([f"s{s}" for s in random.integers(0, 7, count)]),
            "returned": pa.array(random.integers(0, 2, count), mask=random.random(count) < 0.2),
        }
    )
    return log, bought


def nested(bought):
    """A row per buyer."""
    groups = {}
    for row in bought.to_pylist():
        groups.setdefault(row.pop("buyer"), []).append(row)
    kind = pa.list_(pa.struct([bought.schema.field(n) for n in bought.column_names if n != "buyer"]))
    return pa.table({"buyer": pa.array(list(groups), pa.string()), "orders": pa.array(list(groups.values()), kind)})


def with_lists(log, bought):
    """The log's rows, each with all purchases of its user, later ones included."""
    one = nested(bought)
    orders = dict(zip(one["buyer"].to_pylist(), one["orders"].to_pylist(), strict=True))
    lists = [None if u is None else orders.get(u, []) for u in log["user"].to_pylist()]
    return log.append_column("orders", pa.array(lists, one.schema.field("orders").type))


def write(folder, log, bought, kind):
    text = {"flat": FLAT, "nested": NESTED, "own": OWN}[kind]
    log = with_lists(log, bought) if kind == "own" else log
    for part in range(3):
        rows = slice(part * len(log) // 3, (part + 1) * len(log) // 3)
        pq.write_table(log.slice(rows.start, rows.stop - rows.start), folder / "log" / f"{part}.parquet", row_group_size=40)
        if kind == "flat":
            table = bought.slice(part * len(bought) // 3, (part + 1) * len(bought) // 3 - part * len(bought) // 3)
            pq.write_table(table, folder / "bought" / f"{part}.parquet")
    if kind == "nested":
        pq.write_table(nested(bought), folder / "bought" / "0.parquet")
    (folder / "mylog.toml").write_text(TEXT + HISTORY.format(text))


def prepare(folder, out="data", **options):
    return prepare_log(folder / "mylog.toml", folder / out, QUIET, LogOptions(**{"partitions": 3, "keep": ("n",)} | options))


def rows_of(out):
    paths = [p for split in ("train", "validation", "test") for p in sorted((out / split).glob("*.parquet"))]
    return pa.concat_tables([pq.read_table(p) for p in paths]).sort_by("keep_n")


def by_loop(log, bought, out):
    """Columns of the history, one row at a time."""
    codes = {}
    for name in ("video", "shop"):
        table = pq.read_table(out / f"vocabularies/{name}.parquet")
        codes[name] = dict(zip(table["value"].to_pylist(), table["row"].to_pylist(), strict=True))
    events = bought.to_pylist()
    found = {name: [] for name in ("video", "shop", "outcome", "age")}
    for row in log.to_pylist():
        mine = [e for e in events if row["user"] is not None and e["buyer"] == row["user"] and e["at"] < row["ms"]]
        mine = sorted(mine, key=lambda e: e["at"])[-MOST:]  # stable
        found["video"].append([codes["video"].get(e["sku"], 0) for e in mine])
        found["shop"].append([codes["shop"].get(e["shop"], 0) for e in mine])
        found["outcome"].append([int(bool(e["returned"])) for e in mine])
        found["age"].append([sum(b <= row["ms"] - e["at"] for b in AGE_BOUNDS_MS) for e in mine])
    return found


@pytest.mark.parametrize("kind", ["flat", "nested", "own"])
def test_histories_are_those_of_a_loop(kind, tmp_path, monkeypatch):
    log, bought = make(tmp_path)
    if kind != "flat":  # ties of one user and moment keep the order of the table; a nested one has its own
        bought = bought.take(
            pa.array(np.lexsort((np.arange(len(bought)), bought["buyer"].fill_null("").to_numpy(zero_copy_only=False))))
        )
    write(tmp_path, log, bought, kind)
    prepare(tmp_path)
    rows, expected = rows_of(tmp_path / "data"), by_loop(log, bought, tmp_path / "data")
    for part, lists in expected.items():
        assert rows[f"bought_{part}"].to_pylist() == lists, part
    assert sum(map(len, expected["video"])) > ROWS
    [sequence] = load_schema(tmp_path / "data/schema.toml").sequence
    assert [e.column for e in sequence.events] == ["bought_video", "bought_shop", "bought_age", "bought_outcome"]
    monkeypatch.setattr("home_dist.prepare.generic.sizes._CHUNK_ROWS", (30, 40))
    monkeypatch.setattr("home_dist.prepare.generic.log_preparation._NESTED_ROWS", 2)
    prepare(tmp_path, "cut", partitions=7)
    for split in ("train", "validation", "test"):
        assert digests(tmp_path / "cut", split) == digests(tmp_path / "data", split)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 100), hours=st.integers(-10, DAYS * 24), kind=st.sampled_from(["flat", "nested", "own"]))
def test_later_events_change_nothing_before_them(seed, hours, kind, tmp_path_factory):
    """All events from a moment on are replaced; rows up to that moment, included, see the same."""
    folder = tmp_path_factory.mktemp("leak")
    log, bought = make(folder, seed, rows=120)
    moment = FIRST_DAY * DAY_MS + hours * 3_600_000
    later = bought["at"].to_numpy() >= moment
    random = np.random.default_rng(seed)
    changed = bought.set_column(
        bought.column_names.index("sku"),
        "sku",
        pa.array(
            np.where(later, random.integers(0, 25, len(later)), bought["sku"].fill_null(-1).to_numpy()),
            mask=~later & np.asarray(bought["sku"].is_null()),
        ),
    )
    until = bisect_left((log["ms"].to_numpy() > moment).tolist(), True)
    told = []
    for name, events in (("one", bought), ("two", changed)):
        write(folder, log, events, kind)
        prepare(folder, name)
        told.append(rows_of(folder / name).slice(0, until))
    assert told[0].equals(told[1])


@pytest.mark.parametrize("kind", ["flat", "own"])
def test_increments_and_requests(kind, tmp_path):
    """What goes on from an earlier preparation is that of all days; a request is answered as the next day is prepared."""
    log, bought = make(tmp_path)
    end = (FIRST_DAY + 4) * DAY_MS
    write(tmp_path, log, bought, kind)
    prepare(tmp_path, "data", last_day=FIRST_DAY + 3)
    prepare(tmp_path, "next", like=tmp_path / "data")
    (tmp_path / "mylog.toml").write_text((tmp_path / "mylog.toml").read_text().replace("train_days = 3", "train_days = 1"))
    prepare(tmp_path, "whole", like=tmp_path / "next", whole=True)
    assert digests(tmp_path / "next", "train") == digests(tmp_path / "whole", "test")
    # No purchases on the last day: the state knows those before it.
    base = Base.open(tmp_path / "data")
    online = OnlineColumns(base, inputs_of(base))
    rows = log.filter(pa.array(log["ms"].to_numpy() >= end))
    bought = bought.filter(pa.array(bought["at"].to_numpy() < end))
    rows = with_lists(rows, bought) if kind == "own" else rows
    for path in (tmp_path / "bought").glob("*"):
        path.unlink()
    write(tmp_path, log, bought, kind)
    prepare(tmp_path, "served", like=tmp_path / "data", for_scores=True)
    _, made = online.of(pa.table({}), rows)
    expected = rows_of(tmp_path / "served")
    for part in ("video", "shop", "age", "outcome"):
        assert made[f"bought_{part}"].to_pylist() == expected[f"bought_{part}"].to_pylist(), part
    if kind == "own":
        wrong = rows.set_column(rows.column_names.index("orders"), "orders", pa.array([[1]] * len(rows)))
        # JSON's [] and null have no types of their own.
        for none in (pa.array([[]] * len(rows)), pa.nulls(len(rows))):
            _, made = online.of(pa.table({}), rows.set_column(rows.column_names.index("orders"), "orders", none))
            assert made["bought_video"].to_pylist() == made["bought_age"].to_pylist() == [[]] * len(rows)
        with pytest.raises(UnfitColumn, match=r"column 'orders' holds no events: .*a list of structs is needed"):
            online.of(pa.table({}), wrong)


def test_lists_without_times_are_taken_as_they_are(tmp_path):
    log, bought = make(tmp_path)
    log = with_lists(log, bought).drop_columns(["ms"])
    pq.write_table(log, tmp_path / "log/0.parquet")
    text = TEXT.replace('time = "ms"\n', "").replace(
        "train_days = 3, validation_days = 1, test_days = 1", 'by = "random", validation = 0.2, test = 0.2'
    )
    events = 'events = { column = "orders", columns = { video = "sku" } }'
    (tmp_path / "mylog.toml").write_text(text + HISTORY.format(events))
    prepare(tmp_path)
    rows = rows_of(tmp_path / "data")
    table = pq.read_table(tmp_path / "data/vocabularies/video.parquet")
    codes = dict(zip(table["value"].to_pylist(), table["row"].to_pylist(), strict=True))
    expected = [[codes.get(e["sku"], 0) for e in (orders or [])[-MOST:]] for orders in log["orders"].to_pylist()]
    assert rows["bought_video"].to_pylist() == expected
    assert "bought_age" not in rows.column_names


def test_events_in_csv_with_times_as_texts(tmp_path):
    log, bought = make(tmp_path)
    write(tmp_path, log, bought, "flat")
    prepare(tmp_path)
    for path in (tmp_path / "bought").glob("*"):
        path.unlink()
    iso = [str(np.datetime64(t, "ms")) + "Z" for t in bought["at"].to_pylist()]
    pacsv.write_csv(bought.set_column(1, "at", pa.array(iso)), tmp_path / "bought/0.csv")
    prepare(tmp_path, "csv")
    assert digests(tmp_path / "csv", "train") == digests(tmp_path / "data", "train")


@pytest.mark.parametrize("kind", ["flat", "own", "csv"])
def test_an_event_with_a_date_alone_counts_from_the_end_of_its_day(kind, tmp_path):
    """It may have been after any impression of that day."""
    log, bought = make(tmp_path)
    offset = 8 * 3_600_000
    day = (bought["at"].to_numpy() + offset) // DAY_MS
    dated = bought.set_column(1, "at", pa.array(day.astype("datetime64[D]")))
    dated = dated.take(pa.array(np.lexsort((np.arange(ROWS * 2), dated["buyer"].fill_null("").to_numpy(zero_copy_only=False)))))
    write(tmp_path, log, dated, kind.replace("csv", "flat"))
    if kind == "csv":
        for path in (tmp_path / "bought").glob("*"):
            path.unlink()
        pacsv.write_csv(dated, tmp_path / "bought/0.csv")
    path = tmp_path / "mylog.toml"
    path.write_text("utc_offset_hours = 8\n" + path.read_text().replace("train_days = 3", "train_days = 4"))
    prepare(tmp_path)
    ends = (dated["at"].cast(pa.int32()).to_numpy().astype(np.int64) + 1) * DAY_MS - offset - 1
    expected = by_loop(log, dated.set_column(1, "at", pa.array(ends)), tmp_path / "data")
    rows = rows_of(tmp_path / "data")
    for part, lists in expected.items():
        assert rows[f"bought_{part}"].to_pylist() == lists, part
    assert sum(map(len, expected["video"])) > ROWS


def test_folders_of_another_table_are_columns(tmp_path):
    log, bought = make(tmp_path)
    write(tmp_path, log, bought.take(pc.sort_indices(bought, [("shop", "ascending")])), "flat")
    prepare(tmp_path)
    for path in (tmp_path / "bought").glob("*"):
        path.unlink()
    for shop in sorted(set(bought["shop"].to_pylist())):
        (tmp_path / f"bought/shop={shop}").mkdir()
        part = bought.filter(pc.equal(bought["shop"], shop)).drop_columns(["shop"])
        pq.write_table(part, tmp_path / f"bought/shop={shop}/0.parquet")
    path = tmp_path / "mylog.toml"
    path.write_text(path.read_text().replace("bought/*", "bought/*/*"))
    prepare(tmp_path, "folders")
    assert rows_of(tmp_path / "folders").equals(rows_of(tmp_path / "data"))


def test_a_table_without_rows(tmp_path):
    """As on the first day."""
    log, bought = make(tmp_path)
    write(tmp_path, log, bought.slice(0, 0), "flat")
    prepare(tmp_path)
    assert rows_of(tmp_path / "data")["bought_video"].to_pylist() == [[]] * ROWS


def test_a_field_of_nulls_alone(tmp_path):
    """Its type tells nothing."""
    log, bought = make(tmp_path)
    shops = bought.column_names.index("shop")
    write(tmp_path, log, bought.set_column(shops, "shop", pa.nulls(len(bought), pa.string())), "flat")
    prepare(tmp_path)
    write(tmp_path, log, bought.set_column(shops, "shop", pa.nulls(len(bought))), "flat")
    prepare(tmp_path, "nulls")
    assert rows_of(tmp_path / "nulls").equals(rows_of(tmp_path / "data"))
    assert len(pc.list_flatten(rows_of(tmp_path / "data")["bought_shop"])) > ROWS


def test_a_field_of_nulls_alone_within_lists_is_told(tmp_path):
    log, bought = make(tmp_path)
    write(tmp_path, log, bought.set_column(bought.column_names.index("shop"), "shop", pa.nulls(len(bought))), "own")
    with pytest.raises(DataError, match=r"log/.\.parquet: column 'orders' has type list<.*shop: null.* Write it in one"):
        prepare(tmp_path)


def of_user(table):
    return table["buyer"].to_pylist().index("u3")


def with_value(table, name, row, value, kind):
    values = table[name].to_pylist()
    values[row] = value
    return table.set_column(table.column_names.index(name), name, pa.array(values, kind))


@pytest.mark.parametrize(
    ("kind", "change", "told"),
    [
        (
            "flat",
            lambda t: with_value(t, "at", 250, None, pa.int64()),
            r"bought/1\.parquet: column 'at' has 1 empty values, the first in row 51;",
        ),
        (
            "flat",
            lambda t: with_value(t, "at", of_user(t), -5, pa.int64()),
            r"bought/0\.parquet: column 'at' holds -5 in row .*, which is no time",
        ),
        (
            "flat",
            lambda t: with_value(t, "returned", 7, 2, pa.int64()),
            r"bought/0\.parquet: column 'returned' of history 'bought' holds 2 in row 8; 0 or 1",
        ),
        (
            "flat",
            lambda t: with_value(t, "sku", 7, 0.5, pa.float64()),
            r"bought/0\.parquet: column 'sku' in row 8: 0\.5 is no whole number",
        ),
        (
            "flat",
            lambda t: t.set_column(2, "sku", t["shop"]),
            r"'sku' has type string, but \[\[id\]\] 'video' holds whole numbers",
        ),
        ("flat", lambda t: t.set_column(0, "buyer", t["sku"]), r"column 'buyer' has type int64, but 'user' has type string"),
        ("flat", lambda t: t.drop_columns(["sku"]), r"history 'bought': column 'sku' is missing; there are: buyer, at, shop"),
        (
            "own",
            lambda t: with_value(t, "at", of_user(t), None, pa.int64()),
            r"log/.\.parquet: column 'orders\.at' has 1 empty values, the first in row",
        ),
        ("own", lambda t: t.drop_columns(["sku"]), r"field of column 'orders': 'sku' is missing; there are: at, shop"),
    ],
)
def test_what_is_wrong_with_events_is_told(kind, change, told, tmp_path):
    log, bought = make(tmp_path)
    write(tmp_path, log, change(bought), kind)
    with pytest.raises(DataError, match=told):
        prepare(tmp_path)


def test_a_wrong_row_of_the_log_is_named(tmp_path):
    log, bought = make(tmp_path)
    write(tmp_path, log, with_value(bought, "at", of_user(bought), None, pa.int64()), "own")
    first = log.slice(0, ROWS // 3)["user"].to_pylist().index("u3") + 1
    with pytest.raises(DataError, match=rf"log/0\.parquet: column 'orders\.at' has 1 empty values, the first in row {first};"):
        prepare(tmp_path)


@pytest.mark.parametrize(
    ("events", "told"),
    [
        ("events = { }", "give files = .* for events of another table, or column"),
        ('events = { files = "x", time = "at" }', "files: user is missing"),
        ('events = { column = "x", user = "u" }', "user has no effect without files"),
        ('events = { column = "x", columns = { a = "b" } }', "'a' is none of its fields: video, shop"),
        ('events = { column = "x", format = { kind = "csv" } }', "format has no effect without files"),
        (OWN + ', only = "like"', "only names labels of impressions"),
        (OWN + ', outcomes = ["like"]', "outcomes names labels of impressions"),
    ],
)
def test_wrong_descriptions_are_told(events, told, tmp_path):
    (tmp_path / "mylog.toml").write_text(TEXT + HISTORY.format(events))
    with pytest.raises(ConfigError, match=told):
        load_spec(tmp_path / "mylog.toml")


def test_decimals_are_numbers(tmp_path):
    log, _ = make(tmp_path)
    prices = np.random.default_rng(0).integers(0, 10_000, ROWS)
    written = {}
    for kind, column in (
        ("decimal", pa.array(prices).cast(pa.decimal128(20, 0)).cast(pa.decimal128(24, 2))),
        ("float", pa.array(prices.astype(np.float64))),
    ):
        folder = tmp_path / kind
        (folder / "log").mkdir(parents=True)
        label = pa.array(log["like"].to_numpy()).cast(pa.decimal128(19, 0)) if kind == "decimal" else log["like"]
        table = log.append_column("price", column).set_column(5, "like", label)
        pq.write_table(table, folder / "log/0.parquet")
        (folder / "mylog.toml").write_text(TEXT + '\nnumber = [{ column = "price", log = true }]\n')
        prepare(folder)
        written[kind] = [digests(folder / "data", split) for split in ("train", "validation", "test")]
    assert written["decimal"] == written["float"]
