"""The page of a run: complete, self-contained, and shown by a real browser, wide and narrow."""

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from home_dist.config import load_config, save_config
from home_dist.config.model import MODELS
from home_dist.errors import ConfigError
from home_dist.insight.report import report, write_report
from home_dist.insight.report_evaluation import comparison
from home_dist.insight.run_record import RunRecord, same_rows
from home_dist.insight.store import InsightStore, StepRecord
from tests.insight.heads import record_two_steps

pytestmark = pytest.mark.distributed

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr"]


@pytest.fixture(scope="module")
def runs(watched, tmp_path_factory):
    """The run, and a copy whose scores are worse and whose experts have died."""
    folder = tmp_path_factory.mktemp("runs")
    first, second = folder / "first", folder / "second"
    for target in (first, second):
        shutil.copytree(watched[0] / "run", target, ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
    store = InsightStore(second / "insight")
    for record in store.records()[-3:]:
        zero = record.figures["0.zero_rate"].copy()
        zero[2] = 0.99
        store.write(StepRecord(record.step, {**record.figures, "0.zero_rate": zero}))
    with np.load(second / "scores" / "test.npz") as file:
        arrays = {name: file[name] for name in file.files}
    arrays["scores"] = 1 - arrays["scores"]
    np.savez(second / "scores" / "test.npz", **arrays)
    return first, second


@pytest.fixture(scope="module")
def page(runs):
    return write_report(runs[0], None, [], runs[0] / "report.html")


def test_findings_come_first_and_say_what_where_since_and_what_to_try(runs):
    html = report([RunRecord.open(runs[1])])
    anchors = re.findall(r'<section id="([\w-]+)"', html)
    assert anchors[0] == "findings"
    assert {"evaluation-test", "slices", "curves", "calibration", "experts", "gates", "gradients", "features"} <= set(anchors)
    card = re.search(r'<div class="finding"><b>Collapse at layer meta</b>.*?Try: .*?</div>', html)[0]
    assert "meta/interaction 0: outputs are zero, 99% of" in card
    assert "since step 15" in card
    assert "measured 0.99, threshold 0.9" in card
    assert "model.expert_norm" in card


def test_a_page_needs_nothing_else(page):
    html = page.read_text()
    assert not re.search(r'(?:src|href)="(?!data:|#)', html)
    assert "<script" not in html
    assert not re.search(r"url\(|@import", html)
    pictures = re.findall(r'<img src="data:image/svg\+xml;base64,([^"]+)" alt="([^"]+)"', html)
    assert len(pictures) > 15
    alts = {alt for _, alt in pictures}
    assert {"AUC in training, over steps", "share of time by part of a step"} <= alts
    for content, alt in pictures:
        assert ElementTree.fromstring(base64.b64decode(content)).tag.endswith("svg")
        assert alt


def test_figures_are_those_of_the_evaluation(runs, page):
    tree = json.loads((runs[0] / "evaluation.json").read_text())
    html = page.read_text()
    for task, metrics in tree["test"].items():
        row = re.search(rf"<tr><td>{task}</td><td>{metrics['samples']:,}</td>.*?</tr>", html)[0]
        assert f"{metrics['auc']:.4f} <span" in row
        assert f"<td>{metrics['log_loss']:.4f}</td>" in row


def test_two_runs_side_by_side_with_a_paired_test(runs):
    first, second = map(RunRecord.open, runs)
    assert same_rows(first, second, "test")
    html = report([first, second])
    row = re.search(r"<tr><td>watch</td>.*?</tr>", html)[0]
    assert 'class="better"' in row or 'class="worse"' in row
    assert "p 0.01" in row
    assert html.count("<h3>first</h3>") == html.count("<h3>second</h3>") >= 4
    arrays = dict(second.scores("test"))
    np.savez(runs[1] / "scores" / "test.npz", **{**arrays, "labels": 1 - arrays["labels"]})
    other = RunRecord.open(runs[1])
    assert not same_rows(first, other, "test")
    assert comparison(first, other, "test")[0].startswith("Without a paired test")
    np.savez(runs[1] / "scores" / "test.npz", **arrays)


def test_runs_are_named_by_what_differs(runs, tmp_path):
    """Two runs of a sweep lie in folders of one name."""
    folders = [tmp_path / name / "seed-0" for name in ("a", "b")]
    for folder in folders:
        shutil.copytree(runs[0], folder)
    html = report([RunRecord.open(folder) for folder in folders])
    assert "<h1>a/seed-0 compared with b/seed-0</h1>" in html
    assert f"b/seed-0: {folders[1]}/config.toml</summary>" in html
    save_config(load_config(folders[1] / "config.toml", ["train.seed=3", "train.lr=0.5"]), folders[1] / "config.toml")
    html = report([RunRecord.open(folder) for folder in folders])
    assert "<h1>train.lr=0.01, seed 0 compared with train.lr=0.5, seed 3</h1>" in html
    assert "Difference train.lr=0.01, seed 0 - train.lr=0.5, seed 3 with its 95 % interval" in html


def test_negative_transfer_against_single_task_runs(runs, tmp_path):
    alone = tmp_path / "alone"
    shutil.copytree(runs[0], alone)
    tree = json.loads((alone / "evaluation.json").read_text())
    tree["test"]["follow"]["auc"] += 0.05
    (alone / "evaluation.json").write_text(json.dumps(tree))
    found = {(f.sign.rule, f.sign.where) for f in RunRecord.open(runs[0]).findings([RunRecord.open(alone)])}
    assert ("negative transfer", "task follow") in found
    assert ("negative transfer", "task like") not in found
    assert "Negative transfer at task follow" in report([RunRecord.open(runs[0])], [RunRecord.open(alone)])


def test_a_run_without_insight_and_one_without_anything(runs, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(runs[0], bare, ignore=shutil.ignore_patterns("insight", "scores"))
    html = report([RunRecord.open(bare)])
    assert '<div class="quiet">Not looked at: insight.every_steps is 0.</div>' in html
    assert "Nothing found" not in html
    assert '<span class="soft">findings</span><b>not looked at</b>' in html
    assert "Without intervals" in html
    (bare / "evaluation.json").unlink()
    with pytest.raises(ConfigError, match="has recorded nothing yet"):
        write_report(bare, None, [], tmp_path / "page.html")
    with pytest.raises(ConfigError, match="no run is there"):
        write_report(tmp_path / "nowhere", None, [], tmp_path / "page.html")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_report(runs[0], None, [], tmp_path / "nowhere" / "page.html")


def test_a_run_that_insight_never_looked_at_says_so(runs, tmp_path):
    """It ended before the first of insight.every_steps steps: nothing found in nothing is no good news."""
    short = tmp_path / "short"
    shutil.copytree(runs[0], short)
    for kept in (short / "insight").iterdir():
        if kept.name != "names.json":
            shutil.rmtree(kept) if kept.is_dir() else kept.unlink()
    record = RunRecord.open(short)
    assert record.names is not None
    assert not record.looked_at
    html = report([record])
    told = '<div class="quiet">Not looked at yet: no step of insight.every_steps has been reached.</div>'
    assert told in html
    assert 'class="none"' not in html
    assert '<span class="soft">findings</span><b>not looked at</b>' in html
    both = report([RunRecord.open(runs[0]), record])
    assert both.count(told) == 1
    assert f"{len(RunRecord.open(runs[0]).records)} records of experts and gates" in both or 'class="finding' in both


def test_a_run_that_has_diverged_still_has_its_page(runs, tmp_path):
    """Everything it recorded and measured is NaN from some step on."""
    broken = tmp_path / "broken"
    shutil.copytree(runs[0], broken)
    store = InsightStore(broken / "insight")
    for record in store.records()[-3:]:
        store.write(StepRecord(record.step, {name: x * np.nan for name, x in record.figures.items()}))
    tree = json.loads((broken / "evaluation.json").read_text())
    tree["test"]["like"] |= {"auc": float("nan"), "gauc": float("nan"), "samples": 0}
    tree["calibration"]["test"]["like"] = {"weight": [], "prediction": [], "rate": []}
    (broken / "evaluation.json").write_text(json.dumps(tree))
    with np.load(broken / "scores" / "test.npz") as file:
        arrays = {name: file[name] for name in file.files}
    arrays["weights"][:, 0] = 0
    arrays["scores"][:, 0] = np.nan
    np.savez(broken / "scores" / "test.npz", **arrays)
    html = report([RunRecord.open(broken), RunRecord.open(runs[0])])
    assert "Exploding at layer meta" in html
    assert "infinite or NaN" in html


@pytest.mark.parametrize("kind", list(MODELS))
def test_every_kind_has_its_page(kind, tmp_path):
    """While a run trains: nothing but records yet."""
    anatomy = record_two_steps(tmp_path, kind)
    html = report([RunRecord.open(tmp_path)])
    assert ('id="experts"' in html) == bool(anatomy.parts)
    assert ('id="gates"' in html) == any(p.gates for p in anatomy.parts)
    assert ('id="features"' in html) == (kind in ("home", "pepnet"))
    assert 'id="gradients"' in html


# Added to a copy of the page: what a browser made of it, for the test to read.
PROBE = """<script>addEventListener("load", () => {
  const images = [...document.images], size = document.documentElement;
  document.title = JSON.stringify({pictures: images.length, shown: images.filter(i => i.naturalWidth > 50).length,
    loaded: performance.getEntriesByType("resource").filter(r => !r.name.startsWith("data:")).length,
    over: size.scrollWidth - size.clientWidth, high: size.scrollHeight, width: innerWidth});
});</script></body>"""


@pytest.mark.skipif(BROWSER is None, reason="no chromium here (Debian: apt-get install chromium)")
@pytest.mark.parametrize("width", [1300, 500])
def test_in_a_browser(page, width, tmp_path):
    copy = tmp_path / "page.html"
    copy.write_text(page.read_text().replace("</body>", PROBE))
    command = [str(BROWSER), *QUIET, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900"]
    ended = subprocess.run([*command, "--dump-dom", copy.as_uri()], capture_output=True, text=True, timeout=90)
    found = json.loads(re.search(r"<title>(\{.*?\})</title>", ended.stdout)[1].replace("&quot;", '"'))
    assert found["width"] == width
    assert found["pictures"] == found["shown"] > 15
    assert found["loaded"] == 0
    assert found["over"] <= 0  # wide tables scroll within themselves
    assert found["high"] > 3000
    assert [line for line in ended.stderr.splitlines() if "CONSOLE" in line] == []
    picture = tmp_path / "page.png"
    subprocess.run([*command, f"--screenshot={picture}", Path(page).as_uri()], capture_output=True, timeout=90, check=True)
    assert picture.stat().st_size > 20_000
