"""A preparation from S3 to S3, whose workers share no disk, writes the bytes that one on a disk writes."""

import pytest
from pyarrow import fs

from home_dist.files import remote
from home_dist.prepare.generic import LogOptions, prepare_log
from tests.prepare.test_engine import QUIET, digest, write
from tests.s3 import credentials, server, upload

__all__ = ["credentials", "server"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine")
    prepare_log(write(folder), folder / "out", QUIET, LogOptions(partitions=1))
    return folder


@pytest.fixture
def bucket(server, credentials, prepared, tmp_path, monkeypatch):
    """URL of NAME in a bucket that holds the log; the description that reads it is tmp_path/mylog.toml."""
    monkeypatch.setattr("home_dist.files.remote._WAIT_SECONDS", 0.01)
    name = f"b{abs(hash(str(tmp_path))) % 10**9}"
    filesystem = upload(server, prepared / "log", name)
    for path in prepared.iterdir():
        if path.is_file():
            fs.copy_files(str(path), f"{name}/side/{path.name}", destination_filesystem=filesystem)
    place = lambda below: f"s3://{name}/{below}?endpoint_override={server}&region=us-east-1"  # noqa: E731
    text = (prepared / "mylog.toml").read_text()
    text = text.replace('log = "log/*"', f'log = "{place("data/*")}"')
    (tmp_path / "mylog.toml").write_text(text.replace('"video.csv"', f'"{place("side/video.csv")}"'))
    return place


def fetched(place, to):
    for name in remote.names_below(place("out")):
        remote.fetch(place(f"out/{name}"), to / name)
    return to


@pytest.mark.parametrize("processes", [1, 2])
def test_s3_in_and_out(bucket, prepared, tmp_path, processes):
    prepare_log(tmp_path / "mylog.toml", bucket("out"), QUIET, LogOptions(partitions=3, processes=processes))
    mine, theirs = digest(fetched(bucket, tmp_path / "out")), digest(prepared / "out")
    assert {n for n in mine if mine[n] != theirs[n]} == {"report.json"}  # which names the log's files
    assert mine.keys() == theirs.keys()
    assert remote.names_below(bucket("out.work")) == []
