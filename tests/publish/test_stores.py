"""Versions in a store, on a real S3 server; publishers that are killed, and stores that fail, leave no torn version."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from pyarrow import fs

from home_dist.errors import DataError
from home_dist.files.places import join
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
    below = fs.FileSelector(path.split("/")[0], recursive=True)
    names = [i.path for i in store.filesystem.get_file_info(below)]
    assert not any("publisher" in name for name in names)


def test_unfinished_versions_in_a_store_are_removed(trained, tmp_path, request, server, credentials):
    place = in_new_bucket(server, tmp_path, request, "model")
    publish_checkpoint(source(trained, 2), place, "fp32")
    store, path = open_store(join(place, "v000002/rows-00000.bin"))
    with store.filesystem.open_output_stream(path) as stream:
        stream.write(b"left by a killed publisher")
    assert read_version(place).manifest.version == "v000001"
    assert publish_checkpoint(source(trained, 4), place, "fp32").version == "v000002"
    assert read_version(place).manifest.version == "v000002"
    with VersionsFolder(place).claimed(), pytest.raises(PublishError, match="another publisher writes versions there"):
        publish_checkpoint(source(trained, 4), place, "fp32")


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
