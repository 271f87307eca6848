"""Versions in a store, on a real S3 server; publishers that are killed, and stores that fail, leave no torn version."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from pyarrow import fs

from home_dist.errors import DataError
from home_dist.files.places import join
from home_dist.files.remote_claim import Claim, Taken
from home_dist.files.stores import open_store
from home_dist.publish.folder import VersionsFolder
from home_dist.publish.manifest import PublishError
from home_dist.publish.of_checkpoint import publish_checkpoint
from home_dist.publish.reading import read_version
from tests.factory import make_data
from tests.publish.trained import same, source, trained_on
from tests.ranks import REPOSITORY
from tests.s3 import credentials, in_new_bucket, server

__all__ = ["credentials", "server"]
pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return trained_on(1, make_data(folder / "data", rows=400), batch_size=64)


def test_a_store_holds_what_a_folder_holds(trained, tmp_path, request, server, credentials):
    place = in_new_bucket(server, tmp_path, request, "model")
    for to in (place, str(tmp_path / "out")):
        for step, delta in ((2, False), (4, True), (4, False), (4, True)):
            publish_checkpoint(source(trained, step), to, "fp32", delta, keep=1)
    assert VersionsFolder(place).versions() == VersionsFolder(str(tmp_path / "out")).versions() == [3, 4]
    same(read_version(place), read_version(str(tmp_path / "out")))
    store, path = open_store(join(place, "v000003/rows-00000.bin"))
    with store.filesystem.open_output_stream(path) as stream:
        stream.write(b"torn")
    with pytest.raises(PublishError, match=r"v000003/rows-00000.bin: has 4 bytes instead of"):
        read_version(place)
    assert not any("publisher" in info.path for info in files_of(place))


def files_of(place):
    store, path = open_store(place)
    return store.filesystem.get_file_info(fs.FileSelector(path.split("/")[0], recursive=True))


def test_unfinished_versions_in_a_store_are_removed(trained, tmp_path, request, server, credentials):
    place = in_new_bucket(server, tmp_path, request, "model")
    publish_checkpoint(source(trained, 2), place, "fp32")
    store, path = open_store(join(place, "v000002/rows-00000.bin"))
    with store.filesystem.open_output_stream(path) as stream:
        stream.write(b"left by a killed publisher")
    assert read_version(place).manifest.version == "v000001"
    assert publish_checkpoint(source(trained, 4), place, "fp32").version == "v000003"  # who left it may write on
    assert read_version(place).manifest.version == "v000003"
    assert not any("v000002" in i.path or i.path.endswith(".begun") for i in files_of(place))
    with VersionsFolder(place).claimed(), pytest.raises(PublishError, match="another publisher writes versions there"):
        publish_checkpoint(source(trained, 4), place, "fp32")


def test_a_publisher_that_lost_its_claim_ends_and_leaves_what_is_there(trained, tmp_path, request, server, credentials):
    """It slept, and a publisher of another machine took its mark for a left one."""
    place = in_new_bucket(server, tmp_path, request, "model")
    publish_checkpoint(source(trained, 2), place, "fp32")
    late, manifest = VersionsFolder(place), read_version(place).manifest
    with late.writing("v000002", "rows-00000.bin") as stream:
        stream.write(b"the sleeper's")
        with late.claimed():
            late.begin("v000002")
            Claim(join(place, ".publisher"), "publish").write()
            for step in (
                lambda: late.begin("v000003"),
                lambda: late.finish(replace(manifest, version="v000002")),
                lambda: late.abandon("v000001"),
                lambda: late.prune(1),
                late.clear_unfinished,
            ):
                with pytest.raises(Taken, match="another command has taken or removed this folder"):
                    step()
        assert late.current()[0] == "v000001"
        assert VersionsFolder(place).versions() == [1]
        assert publish_checkpoint(source(trained, 4), place, "fp32").version == "v000003"
    publish_checkpoint(source(trained, 4), str(tmp_path / "out"), "fp32")
    same(read_version(place), read_version(str(tmp_path / "out")))


def test_a_damaged_older_version_stops_no_publisher(trained, tmp_path):
    to = tmp_path / "out"
    for step, delta in ((2, False), (4, True), (2, False), (4, True)):
        publish_checkpoint(source(trained, step), str(to), "fp32", delta, keep=9, golden=0)
    (to / "v000004" / "manifest.json").write_text("{")
    told = []
    for _ in range(2):
        publish_checkpoint(source(trained, 4), str(to), "fp32", keep=3, golden=0, tell=told.append)
    assert [re.sub(".*/v", "v", line)[:38] for line in told] == 2 * ["v000004/manifest.json: is damaged or o"]
    assert VersionsFolder(str(to)).versions() == [3, 4, 5, 6]  # 4 built on the one before it
    publish_checkpoint(source(trained, 4), str(to), "fp32", keep=2, golden=0, tell=told.append)
    assert len(told) == 2
    assert VersionsFolder(str(to)).versions() == [6, 7]


def test_a_store_that_is_away_is_told(trained, credentials):
    with pytest.raises(DataError, match=r"s3://nobody/model.*cannot be reached"):
        publish_checkpoint(source(trained, 4), "s3://nobody/model?endpoint_override=http://127.0.0.1:9&region=x", "fp32")


def test_a_publisher_that_fails_leaves_nothing(trained, tmp_path, monkeypatch):
    to = str(tmp_path / "out")
    publish_checkpoint(source(trained, 2), to, "fp32")
    finish = VersionsFolder.finish
    monkeypatch.setattr(VersionsFolder, "finish", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(PublishError, match=r"out: cannot be written: .*No space left on device.* Make room"):
        publish_checkpoint(source(trained, 4), to, "fp32")
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if p.name[0] != ".") == ["current", "v000001"]
    monkeypatch.setattr(VersionsFolder, "finish", finish)
    assert publish_checkpoint(source(trained, 4), to, "fp32").version == "v000002"


KILLED = """
import os, sys
from pathlib import Path
from home_dist.export.source import Source
from home_dist.publish.of_checkpoint import publish_checkpoint
os.write(1, b"ready\\n")
while True:
    publish_checkpoint(Source.open(Path(sys.argv[1])), sys.argv[2], "fp32", keep=2, golden=3)
"""


def test_what_a_killed_publisher_left_of_current_is_removed(trained, tmp_path):
    to = tmp_path / "out"
    to.mkdir()
    (to / ".current.0123abcd.writing").write_text("v0000")
    (to / ".current.mine.writing").write_text("not ours")
    publish_checkpoint(source(trained, 4), str(to), "fp32", golden=0)
    assert {p.name for p in to.glob(".current*")} == {".current.mine.writing"}


@pytest.mark.slow
def test_a_killed_publisher_leaves_no_torn_version(trained, tmp_path):
    """Killed at random moments; after each the current version is whole, and the next publisher goes on."""
    to, draw = tmp_path / "out", np.random.default_rng(7)
    began = time.monotonic()
    publish_checkpoint(source(trained, 4), str(to), "fp32", keep=2, golden=3)
    once, expected = time.monotonic() - began, read_version(str(to))
    for _ in range(8):
        command = [sys.executable, "-W", "ignore", "-c", KILLED, str(trained), str(to)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"})
        process.stdout.readline()
        time.sleep(draw.uniform(0.0, 3 * once))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        same(read_version(str(to)), expected)
    publish_checkpoint(source(trained, 4), str(to), "fp32", keep=2)
    same(read_version(str(to)), expected)
    assert not list(to.glob("*.writing"))
    assert len(VersionsFolder(str(to)).versions()) == 2
