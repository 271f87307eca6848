"""The generated log: the same bytes for the same seed, what is planted, bounded memory, and a model trained on all of it."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from home_dist.errors import ConfigError, DataError
from home_dist.prepare.synthetic import Sizes, write_synthetic
from home_dist.prepare.synthetic.drawn_rows import item_ids
from home_dist.prepare.synthetic.world import TASKS, WATCH_NOISE, WATCH_SLOPE, WATCH_START, World
from home_dist.schema import load_schema
from tests.ranks import REPOSITORY, run, settings

SIZES = Sizes(rows=3000, users=400, items=2000, max_history=3000, vector_width=8, rows_per_file=1000, seed=3)


def written(folder: Path, **changes: int) -> Path:
    write_synthetic(folder, Sizes(**{**SIZES.__dict__, **changes}), lambda text: None)
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return written(tmp_path_factory.mktemp("synthetic") / "data")


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(data, tmp_path):
    first = digests(data)
    assert first == digests(written(tmp_path / "again"))
    other = digests(written(tmp_path / "other", seed=4))
    assert other.keys() == first.keys()
    assert {name for name in first if first[name] == other[name]} == {"draft.toml", "item_video/keys.npy"}
    assert len([n for n in first if n.startswith("train/")]) == 3


def test_rows_do_not_depend_on_how_many_there_are_or_on_files(data, tmp_path):
    longer = pq.read_table(written(tmp_path / "longer", rows=6000, rows_per_file=700) / "train")
    assert longer.slice(0, 2400).equals(pq.read_table(data / "train"))


def test_what_is_planted_is_there(data):
    table = pq.read_table(data / "train").to_pydict()
    lengths = [len(x) for x in table["watched_item"]]
    assert max(lengths) == lengths[0] == 3000
    assert 15 < np.median(lengths) < 60
    assert table["time_ms"] == sorted(table["time_ms"])
    world = World(0, 20_000, 5000, 100)
    rng = np.random.default_rng(0)
    items = world.zipf(rng.random(400_000), 5000)
    counts = np.bincount(items, minlength=5000) / len(items)
    for r in (1, 10, 100, 1000):
        assert counts[r - 1 :][: max(1, r // 2)].mean() * np.log(5001) * r == pytest.approx(1, abs=0.4)
    users, numbers = rng.integers(0, 20_000, 100_000), rng.integers(0, 5000, 100_000)
    logits = world.logits(users, numbers)
    rates = (1 / (1 + np.exp(-logits))).mean(0)
    for task, rate in zip(TASKS, rates, strict=True):
        assert 0.5 < rate / task.rate < 2
    correlation = np.corrcoef(logits.T)
    same = np.array([[a.group == b.group for b in TASKS] for a in TASKS])
    off = ~np.eye(len(TASKS), dtype=bool)
    assert correlation[same & off].mean() > correlation[~same].mean() + 0.3
    # Latent numbers of different users and items are independent standard normal ones.
    latent = world.user_latent(np.arange(20_000))
    assert np.abs(np.cov(latent.T) - np.eye(8)).max() < 0.05
    assert np.abs(latent.mean(0)).max() < 0.05


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    return written(tmp_path_factory.mktemp("watched") / "data", rows=20_000, max_history=50, watch_times=True)


def test_watch_times_follow_duration_and_taste(watched):
    """Least squares of log(y / (d - y)) on the planted logit finds the equation of world.py."""
    table = pa.concat_tables([pq.read_table(watched / s) for s in ("train", "validation", "test")])
    world = World(SIZES.seed, SIZES.users, SIZES.items, 50)
    items = np.searchsorted(item_ids(np.arange(SIZES.items)), table["item"].to_numpy())
    logit = world.logits(table["user_number"].to_numpy(), items)[:, 0]
    y, d = table["watch_seconds"].to_numpy().astype(float), table["duration"].to_numpy()
    assert 0.2 < (y == 0).mean() < 0.5
    assert (y <= d + 1e-3).all()
    assert (y > 0)[logit > 0].mean() > (y > 0)[logit < 0].mean() + 0.2
    inside = (y > 0.01) & (y < d - 0.01)
    slope, start = np.polyfit(logit[inside], np.log(y[inside] / (d[inside] - y[inside])), 1)
    assert (slope, start) == pytest.approx((WATCH_SLOPE, WATCH_START), abs=0.03)
    noise = np.log(y[inside] / (d[inside] - y[inside])) - slope * logit[inside] - start
    assert noise.std() == pytest.approx(WATCH_NOISE, abs=0.03)


def test_watch_times_are_one_more_task_and_change_nothing_else(watched, tmp_path):
    schema = load_schema(watched / "schema.toml")
    task = schema.task[-1]
    assert (task.name, task.kind, task.unit, task.duration) == ("watch_seconds", "regression", "s", "duration")
    train = pq.read_table(watched / "train")
    y = train["watch_seconds"].to_numpy().astype(float)[train["watch_known"].to_numpy() > 0]
    assert (task.values.mean, task.values.std) == pytest.approx((y.mean(), y.std()), rel=1e-6)
    assert len(task.values.thresholds) == 32
    assert 25 <= len(task.values.quantiles) <= 30  # an item's rows share its duration
    plain = written(tmp_path / "plain", rows=20_000, max_history=50)
    assert pq.read_table(plain / "train").equals(train.drop_columns(["watch_seconds"]))
    assert load_schema(plain / "schema.toml") == schema.model_copy(update={"task": schema.task[:-1]})


def test_a_history_goes_on(data):
    """Two impressions of a user show one life: the later history begins within the earlier one and continues it."""
    table = pq.read_table(data / "train", columns=["user_number", "watched_item", "watched_age"]).to_pydict()
    seen = {}
    continued = 0
    for n, user in enumerate(table["user_number"]):
        now = (n // 1000, table["watched_item"][n])
        if user in seen and len(now[1]) > 5:
            moved = now[0] - seen[user][0]
            assert now[1][: len(now[1]) - moved] == seen[user][1][moved:]
            continued += moved > 0
        seen[user] = now
        assert table["watched_age"][n] == sorted(table["watched_age"][n], reverse=True)
    assert continued > 50


def test_every_kind_of_feature_is_used(data):
    schema = load_schema(data / "schema.toml")
    assert {f.kind for f in schema.feature} == {"id", "statistic", "dense", "pretrained"}
    assert {t.values.kind if t.values else "rows" for t in schema.table} == {"rows", "vocabulary", "hash"}
    assert {t.values.type for t in schema.table if t.values} == {"integer", "text"}
    assert {f.pooling for f in schema.feature if f.kind == "id"} == {"none", "weighted"}
    assert {bool(f.frozen) for f in schema.feature if f.kind == "pretrained"} == {True, False}
    keys = np.load(data / "item_video" / "keys.npy")
    assert keys.tolist() == [i for n, i in enumerate(item_ids(np.arange(2000)).tolist()) if n % 10]


CONFIG = """
run = {{ dir = "{run}" }}
data = {{ path = "{data}", window_rows = 500 }}
sequence = [{{ name = "watched", kind = "{kind}" }}]
[embedding]
dim = 8
tables = {{ item = {{ keep_rows = 1500, managed = "lfu" }} }}
pretrained = {{ item_text = {{ dim = 8, normalise = true }}, item_video = {{ dim = 8 }} }}
[model]
kind = "home"
expert_hidden = [32]
expert_dim = 16
[train]
batch_size = {batch}
epochs = 2
lr = 0.003
[log]
tensorboard = false
"""


@pytest.mark.slow
@pytest.mark.distributed
def test_a_model_learns_from_all_of_it_and_a_run_goes_on_exactly(tmp_path):
    data = written(tmp_path / "data", rows=10_000, max_history=10_000)
    figures = {}
    for name, stops in (("straight", [50]), ("stopped", [21, 50])):
        config = tmp_path / f"{name}.toml"
        config.write_text(CONFIG.format(run=tmp_path / name, data=data, kind="twin", batch=128))
        for stop in stops:
            overrides = settings(train__max_steps=stop, train__decay="none")
            ended = run(2, "train", config, *overrides, timeout=170)
            assert ended.codes == [0, 0], ended.text
        figures[name] = json.loads((tmp_path / name / "evaluation.json").read_text())
    assert figures["straight"] == figures["stopped"]
    test = figures["straight"]["test"]
    assert test["effective_view"]["auc"] > 0.6
    assert test["complete_view"]["auc"] > 0.6


@pytest.mark.slow
def test_memory_does_not_grow_with_rows(tmp_path):
    program = (
        "import resource, sys; from pathlib import Path; from home_dist.prepare.synthetic import Sizes, write_synthetic;"
        "write_synthetic(Path(sys.argv[1]), Sizes(int(sys.argv[2]), 2000, 5000, 100_000, 16, 10_000, 0), lambda t: None);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    peaks = []
    for rows in (10_000, 60_000):
        command = [sys.executable, "-c", program, str(tmp_path / str(rows)), str(rows)]
        ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        peaks.append(int(ended.stdout))
    longest = max(
        max(pq.read_table(p, columns=["watched_item"])["watched_item"].combine_chunks().value_lengths().to_pylist())
        for p in (tmp_path / "60000" / "train").glob("*.parquet")
    )
    assert longest == 100_000
    assert peaks[1] < peaks[0] + 150


def test_sizes_that_cannot_be_are_refused(data, tmp_path):
    with pytest.raises(ConfigError, match="--vector-width 300: must be from 1 to 256"):
        written(tmp_path / "wide", vector_width=300)
    with pytest.raises(DataError, match="is there already"):
        written(data)
