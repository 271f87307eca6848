"""`home-dist plan` on devices that are not there."""

import json

import pytest

from home_dist.config import load_config
from home_dist.errors import ConfigError
from home_dist.planning import command
from home_dist.planning.topology import machines
from tests.factory import make_config, make_data
from tests.ranks import REPOSITORY

SCALE = REPOSITORY / "configs" / "kuaishou_scale.toml"


@pytest.fixture
def scale(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    return lambda *overrides: load_config(SCALE, overrides)


def test_two_terabytes_on_128_devices(scale):
    planned = command.plan(scale(), machines("128xH100-80GB"), {"watched": 100})
    whole = sum(planned.estimate.memory.values())
    assert sum(p.rows * p.dim * 4 for p in planned.placed) > 2e12
    assert planned.estimate.memory["tables"].sum() == sum(p.rows * p.dim * 4 for p in planned.placed)
    assert whole.max() < 80e9
    found = json.loads(json.dumps(command.tree(planned)))
    assert found["topology"] == {"kind": "H100-80GB", "devices": 128, "hosts": 16}
    assert found["mean_lengths"]["watched/watched_video"] == 100
    assert found["bound"] in found["seconds"]
    assert found["step_seconds"] >= max(found["seconds"].values())
    intra, inter = found["traffic_bytes"]["intra"]["embeddings"], found["traffic_bytes"]["inter"]["embeddings"]
    assert inter["mean"] > 10 * intra["mean"]  # 120 of the 127 other ranks are on other hosts


def test_what_does_not_fit_is_told_with_what_would_do(scale):
    with pytest.raises(ConfigError) as told:
        command.plan(scale(), machines("16xH100-80GB"), {})
    text = str(told.value)
    assert "no plan fits 16xH100-80GB" in text
    assert "video: 3,000,000,000 rows x 64 = 780.0 GB" in text
    assert "--topology 32xH100-80GB" in text
    command.plan(scale(), machines("32xH100-80GB"), {})


def test_a_pin_that_does_not_fit_is_named(scale):
    with pytest.raises(ConfigError, match=r"video: .* pinned table_wise: 7\d\d\.\d GB more than a device has room for"):
        command.plan(scale("embedding.tables.video.sharding=table_wise"), machines("128xH100-80GB"), {})


def test_lengths_come_from_the_footers_of_data_that_is_there(tmp_path):
    data = make_data(tmp_path / "data", rows=600, files=2, splits=("train",))
    planned = command.plan(load_config(make_config(tmp_path, data)), machines("2xCPU-32GB"), {})
    assert planned.lengths.assumed == ()
    assert 2.5 < planned.lengths.by_key["watched/watched_video"] < 4  # 0 to 6 events, an empty list counts as one


@pytest.mark.parametrize(
    ("text", "hosts", "message"),
    [
        ("H100", None, "write it as COUNTxKIND"),
        ("8xB1", None, "no kind 'B1'; there are H100-80GB"),
        ("12xH100-80GB", 5, "12 devices do not divide among them evenly"),
    ],
)
def test_wrong_topologies(text, hosts, message):
    with pytest.raises(ConfigError, match=message):
        machines(text, hosts)


def test_devices_of_ones_own(tmp_path):
    file = tmp_path / "own.toml"
    entry = 'platform = "cpu"\nmemory = 8\nmemory_speed = 20\nbf16 = 0.1\nfp32 = 0.1\nintra = 1\ninter = 0.1\nper_host = 2\n'
    file.write_text(f"[Mine]\n{entry}")
    found = machines("4xMine", None, file)
    assert (found.hosts, found.per_host, found.device.memory) == (2, 2, 8)
    file.write_text(f"[Mine]\n{entry}colour = 1\n")
    with pytest.raises(ConfigError, match=r"own\.toml: Mine\.colour|own\.toml: colour"):
        machines("4xMine", None, file)


def test_wrong_lengths(scale):
    with pytest.raises(ConfigError, match="write it as NAME=NUMBER"):
        command.lengths_given(["watched"])
    with pytest.raises(ConfigError, match="--mean-length other: no list feature"):
        command.plan(scale(), machines("128xH100-80GB"), {"other": 3})
