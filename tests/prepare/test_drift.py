"""Drift against a base: what is planted is told, and nothing else; population stability against a loop."""

import math
import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from home_dist.insight.prepared_page import write_page
from home_dist.prepare.days import DAY_MS
from home_dist.prepare.drift import drift, psi
from home_dist.prepare.generic import LogOptions, prepare_log
from home_dist.prepare.progress import Progress
from home_dist.prepare.summary import part_lines

QUIET = Progress(lambda text: None)
ROWS, BASE, FIRST = 6000, 4, 19_700
DESCRIPTION = """
log = "log/*"
user = "user"
time = "ms"
split = { train_days = 2, validation_days = 1, test_days = 1 }
label = [{ name = "like", group = "a", column = "like" }, { name = "view", group = "a", column = "view" }]
id = [{ column = "item", min_count = 3 }, { column = "place" }]
number = [{ column = "price" }, { column = "length" }]
"""


def make_day(folder, day: int, drifted: bool) -> None:
    random = np.random.default_rng(day)
    price = random.normal(8.0 if drifted else 5.0, 1.0, ROWS)
    item = random.integers(0, 100, ROWS) + np.where(random.random(ROWS) < 0.4, 1000, 0) * drifted
    log = {
        "user": random.integers(0, 800, ROWS) + 17 * day,
        "ms": (FIRST + day) * DAY_MS + random.integers(0, DAY_MS, ROWS),
        "item": item,
        "place": random.integers(0, 20, ROWS),
        "price": price,
        "length": pa.array(random.exponential(3, ROWS), mask=random.random(ROWS) < (0.4 if drifted else 0.1)),
        "like": random.random(ROWS) < (0.12 if drifted else 0.05),
        "view": random.random(ROWS) < 0.5,
    }
    (folder / "log").mkdir(exist_ok=True)
    pq.write_table(pa.table(log), folder / "log" / f"{day}.parquet")


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """(folder, report of a day like the base, report of a day that drifted)"""
    folder = tmp_path_factory.mktemp("drift")
    (folder / "mylog.toml").write_text(DESCRIPTION)
    for day in range(BASE):
        make_day(folder, day, drifted=False)
    prepare_log(folder / "mylog.toml", folder / "base", QUIET, LogOptions(partitions=2))
    told = []
    for name, drifted in (("same", False), ("other", True)):
        make_day(folder, BASE, drifted)
        like = LogOptions(like=folder / "base", partitions=2)
        told.append(prepare_log(folder / "mylog.toml", folder / name, QUIET, like))
    return folder, *told


def test_a_day_like_the_base_has_no_warning(reports):
    _, same, _ = reports
    assert same["base"]["warnings"] == []
    assert all(entry["psi"] < 0.02 for entry in same["base"]["statistics"].values())
    assert same["base"]["ids"]["item"]["now"] > 0.99


def test_each_planted_drift_has_its_warning(reports):
    folder, _, other = reports
    warnings = other["base"]["warnings"]
    patterns = (
        r"(59|60|61)\..% of the rows have a value of item that .* knew, where 100\.0% had one there",
        r"length is missing in (39|40|41)\..% of the rows, where it was in (9|10)\..% in",
        r"price has other values than in .*: population stability \d\.\d\d, of which 0\.25 is much\. --anew price",
        r"label like happens in 1[12]\..*% of the rows, where it did in [45]\.",
    )
    assert len(warnings) == len(patterns)
    assert all(any(re.match(pattern, w) for w in warnings) for pattern in patterns), warnings
    assert set(warnings) == {line.removeprefix("WARNING: ") for line in part_lines(other) if line.startswith("WARNING")}
    assert any(line.startswith("vocabularies: item +") for line in part_lines(other))
    write_page(other, folder / "page.html")
    page = (folder / "page.html").read_text()
    assert 'id="drift"' in page
    assert page.count('class="finding"') == 4


def test_stability_is_that_of_a_loop(reports):
    folder, _, other = reports
    boundaries = other["histograms"]["price"]["boundaries"]

    def shares(data: str) -> list[float]:
        values = pq.read_table(folder / data / "train").column("stat_price").to_pylist()
        bucket = [0 if v is None else 1 + sum(v >= b for b in boundaries) for v in values]
        counts = Counter(bucket)
        return [counts[n] / len(values) for n in range(len(boundaries) + 2)]

    expected = 0.0
    for before, now in zip(shares("base"), shares("other"), strict=True):
        before, now = max(before, 1e-4), max(now, 1e-4)
        expected += (now - before) * math.log(now / before)
    assert other["base"]["statistics"]["price"]["psi"] == pytest.approx(expected, rel=1e-4)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), min_size=1).filter(
        lambda x: all(map(sum, zip(*x, strict=True)))
    )
)
def test_stability_is_symmetric_and_zero_for_equal_shares(counts):
    there, here = (np.array(c) / sum(c) for c in zip(*counts, strict=True))
    assert psi(there, here) >= 0
    assert psi(there, here) == pytest.approx(psi(here, there))
    assert psi(there, there) == 0


def test_a_base_of_an_older_version_leaves_out_what_it_does_not_tell(reports):
    _, same, _ = reports
    told = drift({}, same, "old")
    assert told == {"folder": "old", "ids": {}, "statistics": {}, "labels": {}, "warnings": []}


def test_a_day_of_one_row_is_prepared(reports, tmp_path):
    folder, *_ = reports
    day = pq.read_table(folder / "log" / f"{BASE}.parquet")
    one = day.slice(0, 1).set_column(1, "ms", pa.array([(FIRST + BASE) * DAY_MS + 5]))
    pq.write_table(one, folder / "log" / f"{BASE}.parquet")
    for hold_out, split in ((0.0, "train"), (0.999, "validation")):
        out = tmp_path / split
        report = prepare_log(folder / "mylog.toml", out, QUIET, LogOptions(like=folder / "base", hold_out=hold_out))
        assert report["splits"][split]["rows"] == report["rows_in"] == 1
        write_page(report, tmp_path / "page.html")
        assert list(part_lines(report))
