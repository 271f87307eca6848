"""`home-dist daily`: the same days come out although it was killed, and each is scored by a model that has not seen it."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from home_dist.daily.daily_section import RuleSection, load_daily
from home_dist.daily.journal import Day, Journal
from home_dist.errors import ConfigError, DataError
from home_dist.prepare.days import day_name
from home_dist.prepare.generic.state import Base
from home_dist.publish.folder import VersionsFolder
from home_dist.publish.manifest import version_name
from tests.factory import CONFIG
from tests.prepare.test_going_on import describe, make_days
from tests.ranks import REPOSITORY

BASE, DAYS = 4, 6
DAILY = """
description = "mylog.toml"
run = "run.toml"
out = "{out}"
first_day = 2023-11-17
hold_out = 0.3
set = ["train.lr=0.003", "train.epochs=1"]
{more}
"""


def settings(folder: Path, out: str = "daily", more: str = "") -> Path:
    path = folder / f"{out}.toml"
    path.write_text(DAILY.format(out=out, more=more))
    return path


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    make_days(folder, DAYS, rows=250)
    describe(folder, 1)
    config = CONFIG.format(run="unused", data="unused", batch_size=64).replace('"watched"', '"seen"')
    (folder / "run.toml").write_text(config)
    return folder


def start(path: Path) -> subprocess.Popen:
    command = [sys.executable, "-W", "ignore", "-m", "home_dist.cli", "daily", str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def figures(folder: Path) -> list[dict]:
    days = json.loads((folder / "days.json").read_text())["days"]
    return [{k: v for k, v in day.items() if k != "seconds"} for day in days]


def published(place: Path) -> list[str]:
    """Last day of the state of each version: each can tell its requests' past up to its own day."""
    folder = VersionsFolder(str(place))
    states = [Base.open(place / version_name(n) / "meaning").record for n in folder.versions()]
    assert folder.current()[0] == version_name(folder.versions()[-1])
    return [day_name(state.end_day - 1) for state in states]


@pytest.mark.slow
@pytest.mark.e2e
def test_days_are_taken_one_by_one_and_a_killed_run_goes_on(shop):
    text, _ = start(settings(shop)).communicate(timeout=400)
    assert "all days are done, up to 2023-11-19" in text, text
    days = figures(shop / "daily")
    assert [d["day"] for d in days] == ["2023-11-17", "2023-11-18", "2023-11-19"]
    assert days[0]["began_with"] is None
    assert days[1]["began_with"] == "runs/2023-11-17"
    assert all(0 < d["scored"]["auc"] < 1 and 0 < d["held_out"]["after"]["auc"] < 1 for d in days[1:])
    assert all(d["model"] == (f"runs/{d['day']}" if d["kept"] else d["began_with"]) for d in days[1:])

    assert (shop / "daily/data/2023-11-18/report.html").exists()
    more = 'page = false\npublish = { to = "killed_versions", keep = 9 }'
    path, random_times = settings(shop, "killed", more), random.Random(5)
    for _ in range(4):  # all processes of it, at any moment
        process = start(path)
        try:
            process.communicate(timeout=random_times.uniform(3, 16))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            time.sleep(0.2)
    text, _ = start(path).communicate(timeout=400)
    assert "all days are done, up to 2023-11-19" in text, text
    assert figures(shop / "killed") == days
    assert published(shop / "killed_versions") == [d["day"] for d in days if d["began_with"] is None or d["kept"]]
    assert not (shop / "killed/data/2023-11-18/report.html").exists()
    text, _ = start(path).communicate(timeout=100)
    assert "0 days to take" in text


def test_a_rule_compares_what_is_better_or_worse():
    assert RuleSection(metric="auc", worse_by=0.01).keeps(0.7, 0.695)
    assert not RuleSection(metric="auc", worse_by=0.01).keeps(0.7, 0.68)
    assert RuleSection(metric="log_loss", worse_by=0.01).keeps(0.5, 0.4)
    assert not RuleSection(metric="log_loss", worse_by=0.01).keeps(0.5, 0.52)
    assert RuleSection().keeps(float("nan"), 0.5)


def test_wrong_settings_are_named_before_anything_is_done(shop, tmp_path):
    with pytest.raises(ConfigError, match=r"last_day 2023-11-01 lies before first_day 2023-11-17"):
        load_daily(settings(shop, "wrong", "last_day = 2023-11-01"))
    with pytest.raises(ConfigError, match=r"rule\.metric"):
        load_daily(settings(shop, "wrong", 'rule = { metric = "accuracy" }'))
    (shop / "publishes.toml").write_text((shop / "run.toml").read_text() + '[publish]\nto = "/versions"\n')
    publishing = settings(shop, "wrong")
    publishing.write_text(publishing.read_text().replace('"run.toml"', '"publishes.toml"'))
    with pytest.raises(ConfigError, match=r"leave \[publish\] out, and give `publish` of .*wrong\.toml"):
        load_daily(publishing)
    with_section = (shop / "run.toml").read_text() + "[train.distillation]\nweight = 0.5\n"
    (shop / "publishes.toml").write_text(with_section)
    with pytest.raises(ConfigError, match=r"leave \[train\.distillation\] out"):
        load_daily(publishing)
    (shop / "elsewhere").mkdir()
    moved = shop / "elsewhere" / "daily.toml"
    moved.write_text(DAILY.format(out="x", more=""))
    with pytest.raises(ConfigError, match=r"description: .*mylog\.toml: no such file"):
        load_daily(moved)


def test_a_damaged_journal_is_named(tmp_path):
    journal = Journal(tmp_path)
    day = Day("2023-11-17", "data/2023-11-17", 10, None, "runs/2023-11-17", True)
    journal.add(day)
    assert journal.days() == [day]
    journal.path.write_text('{"days": [{"day": 1}]}')
    with pytest.raises(DataError, match=r"days\.json: damaged"):
        journal.days()
