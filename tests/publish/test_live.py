"""Versions of a run while it trains: each equals its step's checkpoint, and whatever happens to a version, training goes on."""

import os
import re
import shutil
import signal
import threading
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from home_dist.publish.folder import VersionsFolder
from home_dist.publish.of_checkpoint import publish_checkpoint
from home_dist.publish.reading import read_version
from home_dist.publish.replay import replay
from home_dist.training.checkpoint.reading import open_stored
from tests.distributed.test_full_disk import small_disk
from tests.factory import make_config
from tests.publish.gate import gate
from tests.publish.raw_data import raw_data
from tests.publish.trained import CUT, MANAGED, same, source
from tests.ranks import finish, run, run_module, settings, start
from tests.s3 import credentials, in_new_bucket, server

__all__ = ["credentials", "server", "small_disk"]
pytestmark = pytest.mark.distributed
COMMON = settings(insight__every_steps=0, log__every_steps=1, data__validation="''", data__test="''")
TABLES = ("user", "video", "tag")
KINDS = {
    "managed": [*MANAGED, *settings(embedding__tables__video__max_age=3)],
    "columns": settings(**{f"embedding__tables__{t}__sharding": "column_wise" for t in TABLES}),
    "copied": settings(embedding__optimizer="sgd", embedding__tables__tag__sharding="data_parallel"),
    "averaged": settings(train__ema__decay=0.5, train__ema__use=True),
    "cut": CUT,
    "fp16": settings(embedding__optimizer="adagrad", embedding__precision="fp16", publish__rows="fp16"),
    "int8": settings(publish__rows="int8"),
    "columns_int8": settings(**{f"embedding__tables__{t}__sharding": "column_wise" for t in TABLES}, publish__rows="int8"),
}
FAST = ("managed", "columns")


def publishing(to, **more):
    return settings(**{"publish__to": to, "publish__every_seconds": 0.02, "publish__keep": 99, "publish__golden": 9} | more)


def published(text):
    return re.findall(r"^published (v\d+) \((full|delta), step (\d+)\)", text, re.MULTILINE)


@pytest.mark.parametrize("kind", [k if k in FAST else pytest.param(k, marks=pytest.mark.slow) for k in KINDS])
def test_each_version_is_the_model_of_its_step(tmp_path, kind):
    config, to = make_config(tmp_path, raw_data(tmp_path / "data"), batch_size=16), str(tmp_path / "out")
    kept = settings(checkpoint__every_steps=1, checkpoint__keep_last=99, train__max_steps=16)
    ended = run(2, "train", config, *COMMON, *kept, *publishing(to, publish__full_every=4), *KINDS[kind])
    assert ended.codes == [0, 0], ended.text
    told = published(ended.text)
    assert len(told) >= 3, ended.text
    assert [name for name, _, _ in told] == [f"v{n + 1:06d}" for n in range(len(told))]
    assert {k for _, k, _ in told} == {"full", "delta"}
    assert told[-1][2] == "16"
    reference, row_type = str(tmp_path / "reference"), "int8" if "int8" in kind else "fp16" if kind == "fp16" else "fp32"
    for number, (version, _, step) in enumerate(told):
        publish_checkpoint(source(tmp_path / "run", int(step)), reference, row_type, golden=0, keep=99)
        one, other = read_version(to, version), read_version(reference, f"v{number + 1:06d}")
        if kind == "columns_int8":  # a block of columns has its own scale
            exact = read_version(reference, f"v{number + 1:06d}")
            for name, table in one.tables.items():
                difference = np.abs(table.rows(table.there) - exact.tables[name].rows(table.there))
                assert difference.max(initial=0) < 0.01
        else:
            same(one, other)
        manifest, predictions = replay(to, version)
        assert manifest.golden == 9
        assert max(p.largest_difference for p in predictions) < {"fp32": 1e-6, "fp16": 1e-3, "int8": 1e-2}[row_type]


def test_a_run_that_follows_publishes_while_it_waits(tmp_path):
    data, to = raw_data(tmp_path / "data"), str(tmp_path / "out")
    config, days = make_config(tmp_path, data, batch_size=50), [data / "train" / f"day={n}" for n in range(2)]
    for path, day in zip(sorted((data / "train").glob("*.parquet")), days, strict=False):
        day.mkdir()
        path.rename(day / path.name)
        os.utime(day / path.name, (1e9, 1e9 + days.index(day)))
    rows = [sum(pq.read_metadata(p).num_rows for p in day.iterdir()) for day in days]
    (days[0] / "_SUCCESS").touch()
    follow = {"data__follow": "success", "data__follow_poll_seconds": 0.2, "data__follow_idle_minutes": 0.2}
    options = settings(**follow, train__decay="none", train__epochs=1)
    processes = start(2, "train", config, *COMMON, *options, *publishing(to))
    try:
        wait_for(lambda: current(to) == (rows[0], 1e9), processes)
        (days[1] / "_SUCCESS").touch()
        wait_for(lambda: current(to) == (sum(rows), 1e9 + 1), processes)
        assert all(p.poll() is None for p in processes)  # it waits for more
    finally:
        ended = finish(processes)
    assert ended.codes == [0, 0], ended.text
    assert "nothing new" in ended.text


def current(to):
    """(samples, newest data) of the current version."""
    found = VersionsFolder(to).current()
    if found is None:
        return 0, None
    manifest = VersionsFolder(to).manifest(*found)
    return manifest.samples, manifest.newest_data


def wait_for(condition, processes, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert all(p.poll() is None for p in processes)
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_publishing_changes_nothing_of_a_run(tmp_path):
    """Also its random numbers are the same."""
    config = make_config(tmp_path, raw_data(tmp_path / "data"), batch_size=16)
    for name, options in (("with", publishing(str(tmp_path / "out"), publish__full_every=2)), ("without", [])):
        own = settings(run__dir=tmp_path / name, train__max_steps=30, embedding__dropout=0.2)
        ended = run(1, "train", config, *COMMON, *own, *options)
        assert ended.codes == [0], ended.text
        assert "no version was published" not in ended.text
        assert len(published(ended.text)) >= 2 or not options, ended.text
    one, other = (open_stored(next((tmp_path / n / "checkpoints").glob("step-*")))[0] for n in ("with", "without"))
    assert one.tensors.keys() == other.tensors.keys()
    assert [n for n in one.tensors if not torch.equal(one.whole(n), other.whole(n))] == []


def test_versions_that_are_gone_or_anothers_are_followed_by_a_full_one(tmp_path):
    config, to = make_config(tmp_path, raw_data(tmp_path / "data"), batch_size=16), tmp_path / "out"
    long = settings(train__epochs=4000, checkpoint__every_steps=1000)
    processes = start(1, "train", config, *COMMON, *publishing(str(to), publish__every_seconds=0.3), *long)
    text = []
    threading.Thread(target=lambda: text.extend(processes[0].stdout), daemon=True).start()
    try:
        wait_for(lambda: len(VersionsFolder(str(to)).versions()) >= 2, processes)
        for path in (to / "current", *to.glob("v*/manifest.json")):
            path.unlink(missing_ok=True)  # an operator empties the folder
        wait_for(lambda: (to / "current").is_file() and VersionsFolder(str(to)).current(), processes)
        number = replay(str(to))[0].number
        wait_for(lambda: read_version(str(to)).manifest.number > number, processes)
        assert replay(str(to))[1]
    finally:
        processes[0].send_signal(signal.SIGTERM)
        processes[0].wait(60)
    assert re.search(r"the newest version is not v\d+ any more, there is none", "".join(text)), "".join(text)


def test_a_folder_that_cannot_be_made_is_told_once(tmp_path):
    config, file = make_config(tmp_path, raw_data(tmp_path / "data")), tmp_path / "file"
    file.touch()
    ended = run(2, "train", config, *COMMON, *publishing(str(file / "out")))
    assert ended.codes == [3, 3], ended.text
    assert len(re.findall(r"file/out: cannot be written: .* Choose another folder", ended.text)) == 1, ended.text
    assert "Traceback" not in ended.text


def test_a_following_run_that_is_started_again_publishes_before_anything_arrives(tmp_path):
    data, to = raw_data(tmp_path / "data"), str(tmp_path / "out")
    config = make_config(tmp_path, data, batch_size=50)
    follow = settings(data__follow="rename", data__follow_poll_seconds=0.2, data__follow_idle_minutes=0.05)
    options = [*COMMON, *follow, *settings(train__decay="none", train__epochs=1)]
    first = run(2, "train", config, *options)
    assert first.codes == [0, 0], first.text
    again = run(2, "train", config, *options, *publishing(to))
    assert again.codes == [0, 0], again.text
    assert len(published(again.text)) == 1, again.text
    step = int(published(again.text)[0][2])
    publish_checkpoint(source(tmp_path / "run", step), str(tmp_path / "reference"), "fp32", golden=0)
    same(read_version(to), read_version(str(tmp_path / "reference")))
    newest = max(p.stat().st_mtime for p in (data / "train").iterdir())
    assert read_version(to).manifest.newest_data == pytest.approx(newest, abs=1e-3)


@pytest.mark.parametrize("figures", [False, True])
def test_a_run_that_is_killed_before_its_last_version_publishes_it_by_the_same_command(tmp_path, figures):
    """Whether its figures are still to come, or there are none, so that nothing else is left to do."""
    config, to = make_config(tmp_path, raw_data(tmp_path / "data"), batch_size=16), str(tmp_path / "out")
    splits = settings(metrics__of_training=figures)
    options = [*COMMON, *splits, *publishing(to, publish__every_seconds=600), *settings(train__max_steps=16)]
    killed = finish(start(2, "train", config, *options, module="tests.publish.killed_ranks"))
    assert killed.codes == [-signal.SIGKILL] * 2, killed.text
    assert not any(step == "16" for *_, step in published(killed.text)), killed.text
    again = run(2, "train", config, *options)
    assert again.codes == [0, 0], again.text
    assert ("no version has them yet, and one is published" in again.text) == (not figures), again.text
    assert [step for *_, step in published(again.text)] == ["16"], again.text
    publish_checkpoint(source(tmp_path / "run", 16), str(tmp_path / "reference"), "fp32", golden=0)
    same(read_version(to), read_version(str(tmp_path / "reference")))
    replay(to)
    third = run(2, "train", config, *options)
    assert third.codes == [0, 0], third.text
    assert "nothing to do" in third.text
    assert not published(third.text)


def test_a_complete_run_publishes_beside_anothers_versions_and_damaged_ones(tmp_path):
    """Versions of the same step by another run, of other rows, or that are damaged, are none of this run's model."""
    data, to = raw_data(tmp_path / "data"), tmp_path / "out"
    config, few = make_config(tmp_path, data, batch_size=16), [*COMMON, *settings(train__max_steps=4)]
    for name, seed in (("run", 1), ("other", 2)):
        ended = run(1, "train", config, *few, *settings(run__dir=tmp_path / name, train__seed=seed))
        assert ended.codes == [0], ended.text
    publish_checkpoint(source(tmp_path / "other", 4), str(to), "fp32", golden=0)

    def published_now(*options):
        ended = run(1, "train", config, *few, *publishing(str(to)), *settings(train__seed=1), *options)
        assert ended.codes == [0], ended.text
        return [version for version, *_ in published(ended.text)]

    assert published_now() == ["v000002"]
    assert published_now() == []
    publish_checkpoint(source(tmp_path / "run", 4), str(to), "fp32", golden=0)
    assert published_now() == []
    assert published_now(*settings(publish__rows="fp16")) == ["v000004"]
    assert published_now() == ["v000005"]
    (to / "v000005" / "dense.safetensors").write_bytes(b"")
    assert published_now() == ["v000006"]
    publish_checkpoint(source(tmp_path / "run", 4), str(tmp_path / "reference"), "fp32", golden=0)
    same(read_version(str(to)), read_version(str(tmp_path / "reference")))


@pytest.mark.parametrize(("threads", "seconds"), [("0,3", 0.02), ("-1", 600)])
def test_a_rank_without_room_for_a_thread_holds_no_other_up(tmp_path, threads, seconds):
    """For the first version and a later one, which are tried again, or for the one at the run's end."""
    config, to = make_config(tmp_path, raw_data(tmp_path / "data"), batch_size=16), str(tmp_path / "out")
    more = settings(train__epochs=1, checkpoint__every_steps=1, checkpoint__keep_last=99, distributed__timeout=200)
    options = [*COMMON, *publishing(to, publish__full_every=3, publish__every_seconds=seconds), *more]
    began = time.monotonic()
    ended = run_module(2, "tests.publish.threadless_ranks", threads, "train", config, *options)
    assert time.monotonic() - began < 150  # and not the timeout of collectives
    told = re.findall(r"no version was published: rank 1: RuntimeError: can't start new thread\. (.*)", ended.text)
    again = ["Training goes on; it is tried again in 0 s."] * 2
    assert told == (["The run ends without it."] if threads == "-1" else again), ended.text
    versions = published(ended.text)
    assert versions[0][1] == "full"
    assert len(versions) >= 3 or threads == "-1", ended.text
    publish_checkpoint(source(tmp_path / "run", int(versions[-1][2])), str(tmp_path / "reference"), "fp32", golden=0)
    same(read_version(to), read_version(str(tmp_path / "reference")))


def test_two_publishers_of_one_folder_are_refused_before_training(tmp_path):
    config, to = make_config(tmp_path, raw_data(tmp_path / "data")), str(tmp_path / "out")
    with VersionsFolder(to).claimed():
        ended = run(2, "train", config, *COMMON, *publishing(to))
    assert ended.codes == [3, 3], ended.text
    assert len(re.findall("another publisher writes versions there", ended.text)) == 1
    assert "step 1" not in ended.text.replace("  ", " ")


@pytest.mark.slow
def test_a_store_that_is_away_stops_no_run(tmp_path, credentials):
    config = make_config(tmp_path, raw_data(tmp_path / "data"))
    to = "s3://nobody/model?endpoint_override=http://127.0.0.1:9&region=x"
    ended = run(2, "train", config, *COMMON, *publishing(to), *settings(train__max_steps=6), timeout=300)
    assert ended.codes == [0, 0], ended.text
    assert re.search("note: no version was published: .*nobody.* Training goes on; it is tried again", ended.text)
    assert not published(ended.text)


@pytest.mark.slow
def test_a_store_takes_versions_of_a_run(tmp_path, request, server, credentials):
    config, to = make_config(tmp_path, raw_data(tmp_path / "data")), in_new_bucket(server, tmp_path, request, "model")
    ended = run(2, "train", config, *COMMON, *publishing(to, publish__every_seconds=1), *settings(train__epochs=3))
    assert ended.codes == [0, 0], ended.text
    told = published(ended.text)
    assert told, ended.text
    publish_checkpoint(source(tmp_path / "run", int(told[-1][2])), str(tmp_path / "reference"), "fp32", golden=0)
    same(read_version(to), read_version(str(tmp_path / "reference")))
    replay(to)


@pytest.mark.slow
def test_a_store_that_fails_in_the_middle_leaves_no_torn_version(tmp_path, request, server, credentials):
    """Connections are cut at random moments; what is current stays whole, and versions go on once the store is back."""
    config, draw = make_config(tmp_path, raw_data(tmp_path / "data"), batch_size=16), np.random.default_rng(3)
    with gate(server) as through:
        to = in_new_bucket(through.url, tmp_path, request, "model")
        directly = to.replace(through.url, server)
        options = publishing(to, publish__every_seconds=0.1, publish__full_every=3, publish__keep=2)
        processes = start(1, "train", config, *COMMON, *options, *settings(train__epochs=3000, checkpoint__every_steps=50))
        text = []
        reading = threading.Thread(target=lambda: text.extend(processes[0].stdout), daemon=True)
        reading.start()
        try:
            for _ in range(4):
                wait_for(lambda: VersionsFolder(directly).current() is not None, processes)
                before = read_version(directly).manifest.number
                time.sleep(draw.uniform(0, 0.5))
                through.shut()
                told = sum("no version was published" in line for line in text)
                wait_for(lambda n=told: sum("no version was published" in line for line in text) > n, processes, 200)
                replay(directly)
                through.open()
                wait_for(lambda n=before: read_version(directly).manifest.number > n, processes, 200)
                replay(directly)
        finally:
            processes[0].send_signal(signal.SIGTERM)
            processes[0].wait(60)
    assert processes[0].returncode == 75, "".join(text)


@pytest.mark.slow
def test_a_full_disk_stops_no_run_and_versions_go_on_once_there_is_room(small_disk, tmp_path):
    data = raw_data(tmp_path / "data")
    config, to = make_config(tmp_path, data, batch_size=16), small_disk / "out"
    filler = small_disk / "filler"
    (small_disk / "out").mkdir()
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    filler.write_bytes(bytes(free - 100_000))
    options = [*COMMON, *publishing(to, publish__every_seconds=0.2), *settings(train__epochs=40, run__dir=tmp_path / "run")]
    processes = start(1, "train", config, *options)
    lines = []
    for line in processes[0].stdout:
        lines.append(line)
        if "no version was published" in line and filler.exists():
            assert "No space left on device" in line
            filler.unlink()
        if line.startswith("published") and not filler.exists():
            break
    processes[0].send_signal(signal.SIGTERM)
    ended = finish(processes)
    assert ended.codes == [75], "".join(lines) + ended.text
    assert not filler.exists()
    assert len(VersionsFolder(str(to)).versions()) >= 1
    replay(str(to))


@pytest.mark.slow
def test_killed_runs_leave_no_torn_version_and_go_on(tmp_path):
    """kill -9 of a run at random moments: what is current is whole and answers as its trainer did; the same command goes on."""
    config, to = make_config(tmp_path, raw_data(tmp_path / "data"), batch_size=16), str(tmp_path / "out")
    kept = settings(checkpoint__every_steps=3, train__epochs=60)
    options = [*COMMON, *publishing(to, publish__full_every=3, publish__keep=2), *kept]
    draw, seen = np.random.default_rng(11), [0]
    for _ in range(6):
        processes = start(2, "train", config, *options)
        try:
            wait_for(lambda: (VersionsFolder(to).versions() or [0])[-1] > seen[-1], processes)
            time.sleep(draw.uniform(0, 2))
            for process in processes:
                process.kill()
        finally:
            finish(processes)
        manifest, predictions = replay(to)
        assert max(p.largest_difference for p in predictions) < 1e-6
        assert manifest.number >= seen[-1]  # a kill may come between a version and its name in `current`
        seen.append(manifest.number)
    assert seen[-1] >= 6
    assert len(VersionsFolder(to).versions()) <= 8
    left = [p.name for p in (tmp_path / "out").iterdir() if p.name.endswith(".writing")]
    assert len(left) <= 2


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0, 2])
def test_a_run_that_stops_early_publishes_its_best_checkpoint(tmp_path, seconds):
    """Also while a version of the model as it was is still being written."""
    config, to = make_config(tmp_path, raw_data(tmp_path / "data")), str(tmp_path / "out")
    stop = settings(
        checkpoint__every_steps=2,
        train__epochs=200,
        train__lr=0.3,
        train__stop__metric="validation/auc",
        train__stop__patience=2,
    )
    options = [*settings(insight__every_steps=0), *publishing(to), *stop]
    ended = run_module(1, "tests.publish.slow_ranks", seconds, "train", config, *options)
    [step] = re.findall(r"no better validation/auc than [\d.-]+ of step (\d+)", ended.text)
    told = published(ended.text)[-1]
    assert told[1:] == ("full", step), ended.text
    publish_checkpoint(source(tmp_path / "run", int(told[2])), str(tmp_path / "reference"), "fp32", golden=0)
    same(read_version(to), read_version(str(tmp_path / "reference")))
    shutil.rmtree(to)  # the complete run publishes it again
    again = run(1, "train", config, *options)
    assert published(again.text) == [("v000001", "full", step)], again.text
    same(read_version(to), read_version(str(tmp_path / "reference")))
