"""What a preparation tells of itself, against counts by hand; and its page."""

import datetime
import json
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from home_dist.insight.prepared_page import write_page
from home_dist.prepare.generic import LogOptions, prepare_log
from home_dist.prepare.summary import part_lines
from tests import forked
from tests.prepare.test_engine import QUIET, write


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    description = write(folder)
    description.write_text(description.read_text().replace("train_days = 3", "train_days = 2"))
    report = prepare_log(description, folder / "out", QUIET, LogOptions(partitions=3))
    return folder, report


def test_the_report_is_what_a_loop_counts(prepared):
    folder, report = prepared
    parts = [pq.read_table(folder / "log" / f"{n}.parquet") for n in (1, 2)]
    log = pa.concat_tables([*parts, pacsv.read_csv(folder / "log" / "3.csv").cast(parts[0].schema)]).to_pylist()
    length = {r["video"]: r["length"] for r in pacsv.read_csv(folder / "video.csv").to_pylist()}
    day_of = [(datetime.datetime.fromtimestamp(r["ms"] / 1000 - 3 * 3600, datetime.UTC)).date().isoformat() for r in log]
    days = sorted(set(day_of))
    split_of = dict(zip(days[-4:], ["train", "train", "validation", "test"], strict=True))
    assert report["rows_in"] == len(log)
    assert report["rows_before_the_training_days"] == sum(d not in split_of for d in day_of) > 0
    assert report["rows_out"] == report["rows_in"] - report["rows_before_the_training_days"]
    assert report["rows_without_a_row_in"] == {"video.csv": sum(r["video"] not in length for r in log)}
    known, happened, users = Counter(), Counter(), {}
    for row, day in zip(log, day_of, strict=True):
        told = length.get(row["video"], 0) > 0 and row["seconds"] is not None
        known[day] += told
        happened[day] += told and row["seconds"] >= 3
        users.setdefault(split_of.get(day), set()).add(row["user"])
    assert [(d["day"], d["split"], d["known"]["view"], d["happened"]["view"]) for d in report["days"]] == [
        (d, split_of.get(d), known[d], happened[d]) for d in days
    ]
    for name, split in report["splits"].items():
        own = [d for d in days if split_of.get(d) == name]
        assert split["days"] == [own[0], own[-1]]
        assert split["positives"]["view"] == sum(happened[d] for d in own)
        assert split["unknown"]["view"] == split["rows"] - sum(known[d] for d in own)
        assert split["users"] == len(users[name] - {None, ""})
        stored = pq.read_table(folder / "out" / name)
        assert split["rows"] == len(stored)
        for feature in ("length", "video_view"):
            share = 1 - stored[f"stat_{feature}"].null_count / len(stored)
            assert report["coverage"][feature][name] == pytest.approx(share, abs=1e-6)
        authored = sum(a > 0 for a in stored["author"].to_pylist())
        assert report["coverage"]["author"][name] == pytest.approx(authored / len(stored), abs=1e-6)
        tagged = sum(any(t > 0 for t in tags) for tags in stored["tags"].to_pylist())
        assert report["coverage"]["tags"][name] == pytest.approx(tagged / len(stored), abs=1e-6)
    train = pq.read_table(folder / "out" / "train")
    for name, found in report["histograms"].items():
        values = train[f"stat_{name}"].drop_null().to_numpy()
        assert sum(found["rows"]) == len(values)
        assert found["mean"] == pytest.approx(values.mean(dtype=float), abs=1e-5)
        assert found["std"] == pytest.approx(values.std(dtype=float), abs=1e-5)
    for name, rounded in report["rounded_to"].items():
        values = train[f"stat_{name}"].drop_null().to_numpy().astype(float)
        assert rounded["values"] == len(np.unique(values))
        assert (values % rounded["step"] == 0).all()
    told = [line for line in part_lines(report) if "stored rounded" in line]
    assert len(told) == bool(report["rounded_to"])
    assert json.loads((folder / "out" / "report.json").read_text()) == report


class _Page(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.pictures, self.text, self.links = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag == "img":
            self.pictures.append(found)
        self.links += [v for k, v in found.items() if k in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def test_the_page_shows_it_and_needs_no_network(prepared, tmp_path):
    _, report = prepared
    write_page(report, tmp_path / "report.html")
    page = _Page((tmp_path / "report.html").read_text())
    assert all(link.startswith(("data:", "#")) for link in page.links)
    of_labels = 2 + 2 * len(report["numbers"]) + len(report["classes"])
    assert len(page.pictures) == 1 + of_labels + len(report["histograms"])
    assert (len(report["numbers"]), len(report["classes"])) == (3, 1)
    mean = report["numbers"]["watched"]["splits"]["validation"]["mean"]
    assert f"{mean:.5g}" in page.text
    counts = report["classes"]["spot"]["splits"]["test"]["counts"]
    assert f"{counts[0] / sum(counts):.2%}" in page.text
    assert f"{report['rows_before_the_training_days']:,}" in page.text
    assert "older than the training days" in page.text
    rate = report["splits"]["train"]["positives"]["like"] / report["splits"]["train"]["rows"]
    assert f"{rate:.3%}" in page.text


def test_numbers_and_classes_are_what_numpy_counts(prepared):
    folder, report = prepared
    assert set(report["splits"]["train"]["positives"]) == {"like", "view"}
    assert set(report["splits"]["train"]["unknown"]) == {"like", "view", "watched", "part", "level", "spot"}
    for split in ("train", "validation", "test"):
        stored = pq.read_table(folder / "out" / split)
        for name in ("watched", "part", "level"):
            known = stored[f"known_{name}"].to_numpy() > 0
            values, told = stored[f"label_{name}"].to_numpy()[known].astype(float), report["numbers"][name]["splits"][split]
            assert (told["known"], told["unknown"]) == (known.sum(), (~known).sum())
            assert report["splits"][split]["unknown"][name] == told["unknown"]
            assert (told["mean"], told["deviation"]) == pytest.approx((values.mean(), values.std()), rel=1e-7)
            assert told["zeros"] == pytest.approx((values == 0).mean(), abs=1e-6)
            deciles = np.quantile(values, np.linspace(0, 1, 11), method="inverted_cdf")
            assert told["quantiles"] == pytest.approx(deciles.tolist(), rel=1e-6)
        known = stored["known_spot"].to_numpy() > 0
        told = report["classes"]["spot"]["splits"][split]
        assert told["counts"] == np.bincount(stored["label_spot"].to_numpy()[known], minlength=2).tolist()
        assert told["unknown"] == (~known).sum()
    for name, entry in report["numbers"].items():
        days = {d["day"]: d for d in entry["days"]}
        assert [days[d["day"]]["known"] for d in report["days"]] == [d["known"][name] for d in report["days"]]
        train, histogram = entry["splits"]["train"], entry["histogram"]
        assert sum(histogram["rows"]) == sum(histogram["buckets"]) == train["known"]
        inside = [d for d in entry["days"] if d["split"] == "train"]
        assert sum(d["known"] * d["mean"] for d in inside) == pytest.approx(train["known"] * train["mean"], rel=1e-6)
        values = pq.read_table(folder / "out/train").filter(pc.field(f"known_{name}") == 1)[f"label_{name}"].to_numpy()
        assert histogram["buckets"][0] == (values <= np.float32(histogram["thresholds"][0])).sum()


@pytest.mark.slow
@pytest.mark.e2e
def test_the_command_writes_both(prepared, tmp_path):
    folder, _ = prepared

    def command(*args: object) -> subprocess.CompletedProcess[str]:
        start = [sys.executable, "-m", "home_dist.cli", "prepare"]
        whole = [*start, str(folder / "mylog.toml"), str(tmp_path / "out"), *map(str, args)]
        return forked.run(whole, capture_output=True, text=True, timeout=120)

    wrong = command("--engine", "spark")
    assert wrong.returncode == 2
    assert "Invalid value for '--engine'" in wrong.stderr
    assert "'spark' is not one of 'local', 'ray'" in " ".join(wrong.stderr.replace("│", " ").split())
    right = command("--memory", "0.5", "--processes", "2")
    assert right.returncode == 0, right.stderr
    assert "what was known before: 2,000 rows" in right.stdout
    assert "test: 20" in right.stdout
    assert (tmp_path / "out" / "report.html").is_file()
    assert (tmp_path / "out" / "report.json").read_bytes() == (folder / "out" / "report.json").read_bytes()
    again = command()
    assert again.returncode == 3
    assert "is there already" in again.stderr
