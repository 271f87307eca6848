"""The page of a preparation that goes on from another one: drift, and splits that are not there."""

import copy
import json
import re
from html import unescape

import pytest

from home_dist.insight.prepared_page import write_page
from home_dist.prepare.summary import part_lines
from tests.prepare.test_drift import increment, longer, more_likes, prepared_base, rare_videos

ROWS = 20_000


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return prepared_base(tmp_path_factory.mktemp("base"))


def plant(columns):
    rare_videos(columns)
    longer(columns)
    more_likes(columns)


@pytest.fixture(scope="module")
def drifted(base, tmp_path_factory):
    return increment(tmp_path_factory.mktemp("drifted"), base[0], plant)


def written(report: dict, folder) -> str:
    write_page(json.loads(json.dumps(report)), folder / "report.html")
    return (folder / "report.html").read_text()


def section(html: str, anchor: str) -> str:
    return re.search(rf'<section id="{anchor}">.*?</section>', html, re.DOTALL)[0]


def test_the_page_marks_what_crosses_a_threshold(drifted, tmp_path):
    html = written(drifted, tmp_path)
    found, base = section(html, "drift"), drifted["base"]
    assert len(base["warnings"]) == 3
    assert [unescape(w) for w in re.findall(r'<div class="finding">(.*?)</div>', found)] == base["warnings"]
    marked = re.findall(r'<td class="worse">([^ <]*)', found)
    length, like = base["statistics"]["length"], base["labels"]["like"]
    assert marked == [f"{base['ids']['video']['now']:.1%}", f"{length['psi']:.3f}", f"{like['now']:.3%}"]
    # The worst come first, whatever the description's order is.
    assert [re.findall(r"<tr><td>(\w+)</td>", t) for t in re.findall(r"<tbody>.*?</tbody>", found)] == [
        ["video", "tags"],
        ["length", "price"],
        ["like", "view"],
    ]
    assert re.findall(r'<img [^>]*alt="([^"]*)"', found) == [
        "population stability of statistics",
        "buckets of length before and now",
        "buckets of price before and now",
    ]
    assert all(link.startswith(("data:", "#")) for link in re.findall(r'(?:src|href)="([^"]*)"', html))
    assert base["folder"] in found
    assert f"{base['days'][0]} to {base['days'][1]}, {ROWS:,} rows" in found


def test_no_drift_is_told_and_no_base_needs_no_section(base, tmp_path):
    html = written(increment(tmp_path, base[0]), tmp_path)
    found = section(html, "drift")
    assert "No threshold is crossed." in found
    assert 'class="worse"' not in found
    assert 'id="drift"' not in written(base[1], tmp_path)


@pytest.mark.parametrize(
    ("options", "splits"),
    [({}, ["train"]), ({"hold_out": 0.3}, ["train", "validation"]), ({"hold_out": 0.9999}, ["validation"])],
)
def test_splits_may_be_missing(base, tmp_path, options, splits):
    report = increment(tmp_path, base[0], rows=2000, **options)
    assert list(report["splits"]) == splits
    html = written(report, tmp_path)
    day = report["days"][0]["day"]
    assert f"prepared data, {day} to {day}, with the numbers of {base[0]}" in html
    assert re.findall(r"<th>([^<]+)</th>", section(html, "coverage"))[1:-1] == splits
    for split in splits:
        assert f"<td>{split}</td>" in section(html, "labels")
    lines = list(part_lines(report))
    assert [line.split(":")[0] for line in lines[: len(splits)]] == splits
    told = [line for line in lines if line.startswith("WARNING")]
    if "train" in splits:
        assert told == []
    else:
        assert told == [f"WARNING: the training part has no rows: drift against {base[0]} cannot be measured"]


def test_a_report_that_tells_little_of_its_base_has_a_page(drifted, tmp_path):
    report = copy.deepcopy(drifted)
    for entry in report["base"]["statistics"].values():
        entry["psi"] = None
        del entry["buckets_before"]
    report["base"]["ids"]["video"]["known_to_base"] = None
    report["base"]["labels"]["like"] |= {"now": None, "deviations": None, "known_rows": 0}
    found = section(written(report, tmp_path), "drift")
    assert "<img" not in found
    assert found.count("<td>-</td>") == 4
    report["base"] |= {"ids": {}, "statistics": {}, "labels": {}, "days": [], "rows": 0, "warnings": ["nothing to compare"]}
    assert "nothing to compare" in section(written(report, tmp_path), "drift")


def test_lines_on_the_screen(drifted):
    report = copy.deepcopy(drifted)
    lines = list(part_lines(report))
    assert [line for line in lines if line.startswith("WARNING")] == [f"WARNING: {w}" for w in report["base"]["warnings"]]
    report["vocabularies_grown"] = {"video": {"new": 1200, "without_room": 12}, "tags": {"new": 0, "without_room": 0}}
    report["vocabularies"] = {"video": 5311, "tags": 4}
    assert "vocabularies: video +1,200 (5,310, 12 found no room), tags +0 (3)" in list(part_lines(report))
    for name in ("base", "vocabularies_grown"):
        del report[name]
    assert not any(line.startswith(("WARNING", "vocabularies")) for line in part_lines(report))
