"""What `home-dist groups` prints and writes."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from typer.testing import CliRunner

from home_dist.cli import app
from home_dist.config import load_config
from home_dist.errors import ConfigError
from home_dist.insight.clustering import Merge, tree
from home_dist.insight.grouping import propose
from home_dist.insight.groups_report import write_groups
from home_dist.insight.groups_text import dendrogram, leaves, notes
from tests.insight.test_grouping import TRUE, gradients, symmetric, write_run

NOW = ["x", "x", "y", "y", "y", "x"]


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", gradients(60, 1), groups=NOW).path


def test_a_dendrogram_of_letters():
    merges = [Merge(0, 2, 0.9), Merge(1, 3, 0.75), Merge(4, 5, 0.0)]
    assert dendrogram(["like", "view", "follow", "long"], merges) == [
        "like   ─────┬──────────────────────────────────────────┐",
        "follow ─────┘                                          │",
        "view   ────────────┬───────────────────────────────────┘",
        "long   ────────────┘",
        "affinity 1                       0.5                     0",
    ]


@pytest.mark.parametrize("count", [2, 5, 30])
def test_each_branch_of_a_dendrogram_is_met_once(count):
    for seed in range(5):
        merges = tree(symmetric(count, seed))
        lines = dendrogram([f"task{k}" for k in range(count)], merges)
        assert [line.split()[0] for line in lines[:-1]] == [f"task{k}" for k in leaves(merges)]
        assert sum(line.count("┘") for line in lines) == count - 1
        assert max(map(len, lines[:-1])) <= 6 + 1 + 49


def test_leaves_of_a_cluster_stand_together():
    merges = tree(symmetric(12, 0))
    order, members = leaves(merges), {k: {k} for k in range(12)}
    assert sorted(order) == list(range(12))
    for n, merge in enumerate(merges):
        members[12 + n] = members[merge.left] | members[merge.right]
        places = sorted(order.index(k) for k in members[12 + n])
        assert places == list(range(places[0], places[0] + len(places)))


def test_the_command_says_what_it_would_change_and_how_to_train_it(run):
    ended = CliRunner().invoke(app, ["groups", str(run)], env={"COLUMNS": "200"})
    assert ended.exit_code == 0, ended.output
    rows = {
        c[0]: c[1:3] for c in ([x.strip() for x in line.split("│")[1:-1]] for line in ended.output.splitlines()) if len(c) == 5
    }
    assert rows == {f"t{k}": [now, true] for k, (now, true) in enumerate(zip(NOW, ["x", "x", "x", "y", "y", "y"], strict=True))}
    assert "2 groups over 60 sampled steps" in ended.output
    assert f"to train: home-dist train {run / 'groups.toml'}" in ended.output
    config = load_config(run / "groups.toml")
    assert config.data.groups == {"t2": "x", "t5": "y"}
    assert config.run.dir == "r-groups"
    other = config.model_copy(
        update={"data": load_config(run / "config.toml").data, "run": load_config(run / "config.toml").run}
    )
    assert other == load_config(run / "config.toml")


def test_the_json_holds_the_figures(run):
    found = propose([write_run(run.parent / "second", gradients(40, 7), groups=NOW)])
    write_groups(found, run)
    told = json.loads((run / "groups.json").read_text())
    assert {t: row["proposed"] for t, row in told["tasks"].items()} == dict(zip(found.tasks, found.proposed, strict=True))
    assert np.array(told["affinity"]) == pytest.approx(found.affinity.mean)
    assert told["runs"] == {str(run.parent / "second"): 40}
    assert [m[:2] for m in told["merges"]] == [[m.left, m.right] for m in found.merges]
    assert np.diag(told["transfer"]) == pytest.approx(np.ones(6))


def test_the_page_is_one_file_with_all_pictures(run):
    CliRunner().invoke(app, ["groups", str(run)])
    text = (run / "groups.html").read_text()
    HTMLParser().feed(text)
    assert re.findall(r'src="(?!data:)|href="(?!#|data:)|<script', text) == []
    assert text.count("data:image/svg+xml;base64,") == 5
    assert text.count("<h2>") == text.count('<section id="') == 3
    for task in ("t0", "t5"):
        assert f"<td>{task}</td>" in text


def test_nothing_to_change_leaves_no_configuration(run, tmp_path):
    assert write_groups(propose([write_run(tmp_path / "first", gradients(60, 1), groups=NOW)]), run) == run / "groups.toml"
    same = propose([write_run(tmp_path / "same", gradients(60, 1), groups=TRUE)])
    assert write_groups(same, run) is None
    assert not (run / "groups.toml").exists()
    assert notes(same)[-1].startswith("nothing to change")
    noise = propose([write_run(tmp_path / "noise", gradients(60, 1, pull=0.0), groups=TRUE)])
    assert "no proposal" in notes(noise)[0]


def test_another_place_for_the_configuration(run, tmp_path):
    ended = CliRunner().invoke(app, ["groups", str(run), "--out", str(tmp_path / "mine.toml")])
    assert ended.exit_code == 0
    assert load_config(tmp_path / "mine.toml").data.groups == {"t2": "x", "t5": "y"}
    assert not (run / "groups.toml").exists()
    with pytest.raises(ConfigError, match=r"cannot be written.*--out"):
        write_groups(propose([write_run(tmp_path / "more", gradients(60, 1), groups=NOW)]), run, tmp_path / "none" / "x.toml")
