"""Drift of new days against the base: loops over raw values are the reference; each planted drift gives its warning alone."""

import bisect
import copy
import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from home_dist.errors import DataError
from home_dist.prepare.days import DAY_MS
from home_dist.prepare.drift import PSI_WARNING, are_other_values, drift, psi
from home_dist.prepare.generic import LogOptions, prepare_log
from home_dist.prepare.progress import Progress

QUIET = Progress(lambda text: None)
FIRST_DAY, ROWS = 19_675, 20_000
DESCRIPTION = """
log = "log/*"
user = "user"
time = "ms"
split = { train_days = 1, validation_days = 1, test_days = 1 }
label = [
  { name = "like", group = "a", column = "like" },
  { name = "view", group = "b", column = "watched", at_least = 3, known = "told" },
]
id = [{ column = "video" }, { column = "tags", separator = "|", min_count = 1 }]
number = [{ column = "length" }, { column = "price", buckets = { by = "equal_width", count = 8 } }]
"""


def day_columns(day: int, rows: int = ROWS) -> dict[str, np.ndarray]:
    """Each day has other users; all else is drawn from the same distributions."""
    random = np.random.default_rng(day)
    return {
        "user": random.integers(0, 500, rows) + 1000 * day,
        "ms": (FIRST_DAY + day) * DAY_MS + random.integers(0, DAY_MS, rows),
        "video": random.zipf(1.5, rows) % 300,
        "tags": np.array(["|".join(f"t{t}" for t in range(n)) for n in random.integers(0, 4, rows).tolist()]),
        "length": random.normal(10, 3, rows).round(3),
        "price": np.where(random.random(rows) < 0.15, np.nan, random.exponential(4, rows).round(3)),
        "like": (random.random(rows) < 0.02).astype(int),
        "watched": random.exponential(4, rows).round(3),
        "told": (random.random(rows) < 0.9).astype(int),
    }


def write_day(folder: Path, day: int, columns: dict[str, np.ndarray]) -> None:
    (folder / "log").mkdir(parents=True, exist_ok=True)
    table = pa.table({n: pa.array(v, from_pandas=True) for n, v in columns.items()})
    pq.write_table(table, folder / "log" / f"{day:02d}.parquet")
    (folder / "mylog.toml").write_text(DESCRIPTION)


def prepared(folder: Path, like: Path | None = None, **options) -> dict:
    return prepare_log(folder / "mylog.toml", folder / "out", QUIET, LogOptions(like=like, partitions=2, **options))


def prepared_base(folder: Path) -> tuple[Path, dict]:
    """(data, report) of three days, of which the first is for training."""
    for day in range(3):
        write_day(folder, day, day_columns(day, ROWS if day == 0 else 500))
    return folder / "out", prepared(folder)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return prepared_base(tmp_path_factory.mktemp("base"))


def increment(folder: Path, base: Path, change=lambda columns: None, rows: int = ROWS, **options) -> dict:
    columns = day_columns(3, rows)
    change(columns)
    write_day(folder, 3, columns)
    return prepared(folder, base, **options)


def test_no_drift_gives_no_warning(base, tmp_path):
    report = increment(tmp_path, base[0])
    found = report["base"]
    assert found["warnings"] == []
    assert (found["folder"], found["rows"], found["days"]) == (str(base[0]), ROWS, base[1]["splits"]["train"]["days"])
    assert list(found["ids"]) == ["video", "tags"]
    assert list(found["statistics"]) == ["length", "price"]
    assert list(found["labels"]) == ["like", "view"]


def some(columns, share=0.2):
    return np.random.default_rng(9).random(len(columns["ms"])) < share


def rare_videos(columns):
    columns["video"] = np.where(some(columns), 10_000 + np.arange(ROWS), columns["video"])


def new_videos(columns):
    columns["video"] = columns["video"] + 10_000


def missing_lengths(columns):
    columns["length"] = np.where(some(columns), np.nan, columns["length"])


def no_lengths(columns):
    columns["length"] = np.full(ROWS, np.nan)


def known_prices(columns):
    columns["price"] = np.where(np.isnan(columns["price"]), np.random.default_rng(8).exponential(4, ROWS), columns["price"])


def longer(columns):
    columns["length"] = columns["length"] + 2.5


def one_length(columns):
    columns["length"] = np.full(ROWS, 10.0)


def more_likes(columns):
    columns["like"] = (np.random.default_rng(8).random(ROWS) < 0.035).astype(int)


def unknown_views(columns):
    columns["told"] = np.where(some(columns), 0, columns["told"])


@pytest.mark.parametrize(
    ("change", "section", "name", "crossed", "text"),
    [
        (rare_videos, "ids", "video", "known", "have a known video"),
        (new_videos, "ids", "video", "known_to_base", "video is mostly new"),
        (missing_lengths, "statistics", "length", "missing", "missing more or less often than in {0}: length in 20."),
        (known_prices, "statistics", "price", "missing", "price in 0.0% of the rows (1"),
        (no_lengths, "statistics", "length", "missing", "length in 100.0% of the rows (0.0% there)"),
        (longer, "statistics", "length", "psi", "other values than in {0}, by a population stability above 0.25: length (0."),
        (one_length, "statistics", "length", "psi", "above 0.25: length ("),
        (more_likes, "labels", "like", "rate", "label like happens in 3."),
        (unknown_views, "labels", "view", "missing", "label view is unknown in 2"),
    ],
)
def test_a_planted_drift_gives_its_warning_alone(base, tmp_path, change, section, name, crossed, text):
    found = increment(tmp_path, base[0], change)["base"]
    assert len(found["warnings"]) == 1
    assert text.format(base[0]) in found["warnings"][0]
    marked = {(s, n): e["crossed"] for s in ("ids", "statistics", "labels") for n, e in found[s].items() if e["crossed"]}
    assert marked == {(section, name): [crossed]}


def of_rows(table: pa.Table, column: str) -> list:
    return table.column(column).to_pylist()


def test_the_entries_are_what_a_loop_over_the_stored_rows_counts(base, tmp_path):
    def change(columns):
        rare_videos(columns)
        columns["tags"] = np.where(some(columns, 0.5), "new", columns["tags"])
        columns["length"] = columns["length"] + 0.7

    report = increment(tmp_path, base[0], change)
    before, now = pq.read_table(base[0] / "train"), pq.read_table(tmp_path / "out/train")
    keys = {n: pq.read_metadata(base[0] / f"vocabularies/{n}.parquet").num_rows for n in ("video", "tags")}
    assert report["vocabularies_grown"]["tags"]["new"] == 1
    lists = {"video": [[v] for v in of_rows(now, "video")], "tags": of_rows(now, "tags")}
    for name, entry in report["base"]["ids"].items():
        assert entry["known_to_base"] == pytest.approx(
            np.mean([any(0 < v <= keys[name] for v in vs) for vs in lists[name]]), abs=1e-6
        )
        assert entry["now"] == pytest.approx(np.mean([any(v > 0 for v in vs) for vs in lists[name]]), abs=1e-6)
    assert report["base"]["ids"]["tags"]["known_to_base"] < report["base"]["ids"]["tags"]["now"] - 0.3
    for name, entry in report["base"]["statistics"].items():
        boundaries = report["histograms"][name]["boundaries"]
        shares, held = [], []
        for table in (before, now):
            values = [v for v in of_rows(table, f"stat_{name}") if v is not None]
            buckets = [0] * (len(boundaries) + 1)
            for value in values:
                buckets[bisect.bisect_right(boundaries, value)] += 1
            held.append(buckets)
            shares.append([max(n / len(values), 1e-4) for n in buckets])
        assert entry["buckets_before"] == held[0]
        assert report["histograms"][name]["buckets"] == held[1]
        expected = sum((b - a) * math.log(b / a) for a, b in zip(*shares, strict=True))
        assert entry["psi"] == pytest.approx(expected, abs=1e-6)
    assert report["base"]["statistics"]["length"]["psi"] > 0.03
    for name, entry in report["base"]["labels"].items():
        for table, at in ((before, "before"), (now, "now")):
            known = of_rows(table, f"known_{name}") if f"known_{name}" in table.column_names else [1] * len(table)
            happened = sum(h for h, k in zip(of_rows(table, f"label_{name}"), known, strict=True) if k)
            assert entry[at] == pytest.approx(happened / sum(known))
        p, q, m, n = entry["before"], entry["now"], entry["known_rows_before"], entry["known_rows"]
        both = (p * m + q * n) / (m + n)
        assert entry["deviations"] == pytest.approx((q - p) / math.sqrt(both * (1 - both) * (1 / m + 1 / n)))


def test_a_day_of_few_rows_gives_no_warning_by_chance(base, tmp_path):
    report = increment(tmp_path, base[0], rows=40)
    assert report["base"]["statistics"]["length"]["psi"] > PSI_WARNING
    assert report["base"]["warnings"] == []


def test_vocabularies_that_do_not_grow_know_what_the_base_knew(base, tmp_path):
    report = increment(tmp_path, base[0], new_videos, for_scores=True)
    entry = report["base"]["ids"]["video"]
    assert entry["known_to_base"] == entry["now"] == 0
    assert entry["crossed"] == ["known"]
    assert len(report["base"]["warnings"]) == 1


def test_rows_to_be_scored_need_no_labels(base, tmp_path):
    def without_labels(columns):
        for name in ("like", "watched", "told"):
            del columns[name]

    found = increment(tmp_path, base[0], without_labels, for_scores=True)["base"]
    assert found["labels"]["like"]["now"] is None
    assert found["warnings"] == []


def test_boundaries_fitted_anew_are_not_compared(base, tmp_path):
    report = increment(tmp_path, base[0], longer, anew=("length",))
    entry = report["base"]["statistics"]["length"]
    assert entry["psi"] is None
    assert report["base"]["warnings"] == []
    assert report["base"]["statistics"]["price"]["psi"] is not None


def test_users_held_out_are_no_part_of_it(base, tmp_path):
    report = increment(tmp_path, base[0], hold_out=0.3)
    assert list(report["splits"]) == ["train", "validation"]
    found = report["base"]
    assert found["labels"]["like"]["known_rows"] == report["splits"]["train"]["rows"] < ROWS
    assert found["warnings"] == []


def test_a_report_that_is_no_json_is_refused_before_the_work(base, tmp_path):

    shutil.copytree(base[0], tmp_path / "base")
    (tmp_path / "base/report.json").write_text("{")
    with pytest.raises(DataError, match=r"report.json: cannot be read as JSON.*Restore it"):
        increment(tmp_path, tmp_path / "base")
    (tmp_path / "base/report.json").unlink()
    found = prepared(tmp_path, tmp_path / "base")["base"]
    assert "does not tell of training rows" in found["warnings"][0]


def test_what_an_older_report_lacks_is_left_out(base):
    _, now = base
    assert drift(now, now, "old")["warnings"] == []
    before = copy.deepcopy(now)
    for histogram in before["histograms"].values():
        del histogram["buckets"]
    del before["coverage"]["video"]
    del before["splits"]["train"]["unknown"], before["splits"]["train"]["positives"]["like"]
    found = drift(before, now, "old")
    assert list(found["ids"]) == ["tags"]
    assert found["ids"]["tags"]["known_to_base"] is None
    assert [e["psi"] for e in found["statistics"].values()] == [None, None]
    assert list(found["labels"]) == ["view"]
    del before["histograms"], before["coverage"]
    assert drift(before, now, "old")["statistics"] == {}


@pytest.mark.parametrize("report", [{}, {"splits": {}}, {"parity": 1, "rows": 3}])
def test_a_report_without_training_rows_gives_one_warning(base, report):
    found = drift(report, base[1], "old")
    assert found["ids"] == found["statistics"] == found["labels"] == {}
    assert "old/report.json does not tell of training rows" in found["warnings"][0]
    turned = drift(base[1], report, "old")
    assert turned["warnings"] == ["the training part has no rows: drift against old cannot be measured"]


def test_labels_unknown_throughout_are_told_unless_the_rows_are_to_be_scored(base):
    _, before = base
    now = copy.deepcopy(before)
    now["splits"]["train"]["unknown"]["like"] = ROWS
    now["splits"]["train"]["positives"]["like"] = 0
    found = drift(before, now, "old")
    assert found["labels"]["like"]["now"] is None
    assert found["warnings"] == ["label like is unknown in 100.0% of the rows; in old, in 0.0%"]
    assert drift(before, now, "old", to_score=True)["warnings"] == []
    turned = drift(now, before, "old")["labels"]["like"]
    assert (turned["before"], turned["deviations"], turned["crossed"]) == (None, None, ["missing"])


@pytest.mark.parametrize(
    ("before", "now", "crosses"), [(0.5, 0.6, False), (0.9, 0.8, True), (0.0, 0.01, True), (0.1, 0.14, False)]
)
def test_a_rate_counts_by_its_rarer_side(base, before, now, crosses):
    reports = [copy.deepcopy(base[1]) for _ in range(2)]
    for report, rate in zip(reports, (before, now), strict=True):
        report["splits"]["train"]["positives"]["like"] = round(rate * ROWS)
    assert (drift(*reports, "old")["labels"]["like"]["crossed"] == ["rate"]) is crosses


shares = st.integers(1, 30).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 1000), min_size=n, max_size=n).filter(any) for _ in range(2)])
)


@given(shares)
def test_psi_is_a_distance(counts):
    first, second = ([n / sum(c) for n in c] for c in counts)
    assert psi(first, second) >= 0
    assert psi(first, second) == pytest.approx(psi(second, first))
    assert psi(first, first) == 0
    order = np.random.default_rng(len(first)).permutation(len(first))
    assert psi([first[i] for i in order], [second[i] for i in order]) == pytest.approx(psi(first, second))


@pytest.mark.parametrize(("rows", "rows_before"), [(40, 20_000), (200, 20_000), (5000, 5000)])
@pytest.mark.parametrize("buckets", [2, 20])
def test_samples_of_one_distribution_are_not_told_apart(rows, rows_before, buckets):
    random = np.random.default_rng(0)
    drawn = [[random.multinomial(n, [1 / buckets] * buckets).tolist() for n in (rows_before, rows)] for _ in range(500)]
    assert not any(are_other_values(*pair) for pair in drawn)
    halved = [rows // (2 * buckets), *[rows // buckets] * (buckets - 2), rows * 3 // (2 * buckets)]
    assert rows < 5000 or are_other_values(drawn[0][0], halved)


def test_it_is_pearsons_test():
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(0)
    for _ in range(200):
        before, now = random.integers(1, 30, (2, 6))
        p = stats.chi2_contingency([before, now]).pvalue
        if p < 1e-5 or p > 1e-4:  # 4 standard deviations are 3.2e-5; the quantile is an approximation
            assert are_other_values(before.tolist(), now.tolist()) is bool(p < 3.2e-5)
    assert not are_other_values([5, 0], [9, 0])


def test_many_statistics_have_one_warning(base):
    before = copy.deepcopy(base[1])
    for number in range(12):
        before["histograms"][f"s{number:02d}"] = {"boundaries": [1.0], "buckets": [10_000, 10_000]}
        before["coverage"][f"s{number:02d}"] = {"train": 1.0}
    now = copy.deepcopy(before)
    for number in range(12):
        now["histograms"][f"s{number:02d}"]["buckets"] = [1000 + number, 19_000 - number]
        now["coverage"][f"s{number:02d}"] = {"train": 0.5}
    missing, other = drift(before, now, "old")["warnings"]
    assert missing.endswith("s07 in 50.0% of the rows (0.0% there), and 4 more")
    assert "above 0.25: s00 (1." in other
    assert "and 4 more. --anew NAME" in other
