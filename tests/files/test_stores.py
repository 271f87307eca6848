"""Where data lies: globs, partitions, and a real S3 server on loopback."""

import os
import re
import shutil
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from home_dist.config import load_config, save_config
from home_dist.data import Reader, ReaderPosition, open_files
from home_dist.data.side_files import with_local_schema
from home_dist.errors import DataError, UserError
from home_dist.files.listing import find_files
from home_dist.files.places import join, without_secrets
from home_dist.schema import build_layout, load_schema, save_schema
from home_dist.training.checkpoint.state import Record, TrainState
from tests import forked
from tests.factory import make_config, make_data, make_rows, make_schema
from tests.ranks import REPOSITORY
from tests.s3 import credentials, server, upload

__all__ = ["credentials", "server"]


def batches(files, schema, layout, **changes):
    reader = Reader(files, schema, layout, **{"batch_size": 32, "seed": 1, "lanes": 2, "window_rows": 50, **changes})
    return [(b.dense, b.events.values(), b.labels) for b in reader.epoch(0)]


@pytest.mark.parametrize("memory_mb", [1024, 0.05])
def test_a_bucket_gives_what_the_folder_gives(server, credentials, tmp_path, memory_mb):
    data = make_data(tmp_path / "data", rows=200, files=2, row_group=60)
    schema = make_schema()
    layout = build_layout(schema, load_config(make_config(tmp_path, data)))
    bucket = f"like-{str(memory_mb).replace('.', '-')}"
    upload(server, data, bucket)
    remote = open_files(f"s3://{bucket}/data/train?endpoint_override={server}&region=us-east-1", schema, layout)
    local = open_files(data / "train", schema, layout)
    assert remote.fingerprint() == local.fingerprint()
    found, expected = (batches(f, schema, layout, threads=3, memory_mb=memory_mb) for f in (remote, local))
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert all(a.equal(b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.slow
@pytest.mark.e2e
def test_training_on_a_bucket_gives_what_the_folder_gives(server, credentials, tmp_path):
    """With the schema beside the data and a vocabulary beside that."""
    data = make_data(tmp_path / "data", rows=600)
    schema = make_schema().model_dump(exclude_none=True)
    schema["table"][0]["values"] = {"kind": "vocabulary", "type": "integer", "file": "vocabularies/user.parquet"}
    save_schema(type(make_schema()).model_validate(schema), data / "schema.toml")
    (data / "vocabularies").mkdir()
    keys = np.arange(2999)
    pq.write_table(pa.table({"value": keys, "row": keys + 1}), data / "vocabularies" / "user.parquet")
    upload(server, data, "trained")
    losses = []
    for name, place in (("here", str(data)), ("there", f"s3://trained/data?endpoint_override={server}&region=us-east-1")):
        run = make_config(tmp_path, data, name=name)
        command = [sys.executable, "-m", "home_dist.cli", "train", str(run), "--set", f"data.path={place}"]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(tmp_path)}
        ended = forked.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        losses.append(re.findall(r"loss ([\d.]+)", ended.stdout))
    assert losses[0] == losses[1]
    assert losses[0]


def test_a_missing_bucket_is_told(server, credentials):
    with pytest.raises(DataError, match=r"s3://nowhere/data: there is no bucket 'nowhere'. Correct the URL"):
        find_files(f"s3://nowhere/data?endpoint_override={server}&region=us-east-1")


def test_a_missing_folder_of_a_bucket_is_told(server, credentials, tmp_path):
    upload(server, make_data(tmp_path / "data", rows=20), "there")
    with pytest.raises(DataError, match=r"s3://there/other: no such folder"):
        find_files(f"s3://there/other?endpoint_override={server}&region=us-east-1")


def test_an_endpoint_that_does_not_answer_is_told_in_bounded_time(credentials):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    began = time.monotonic()
    with pytest.raises(DataError, match="the store cannot be reached"):
        find_files(f"s3://bucket/data?endpoint_override=http://127.0.0.1:{port}&region=us-east-1")
    assert time.monotonic() - began < 30


class _Refusing(BaseHTTPRequestHandler):
    """What S3 answers to requests without, or with wrong, credentials."""

    def do_GET(self):
        body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_):
        pass


def test_missing_credentials_are_told(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refusing) as refusing:
        threading.Thread(target=refusing.serve_forever, daemon=True).start()
        try:
            with pytest.raises(DataError, match=r"the store refuses access .*AWS_ACCESS_KEY_ID"):
                find_files(f"s3://bucket/data?endpoint_override=http://127.0.0.1:{refusing.server_port}&region=us-east-1")
        finally:
            refusing.shutdown()


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("ftp://host/data", "Schemes are"),
        ("s3://bucket/data?colour=red", "cannot be opened"),
        ("/nowhere/at/all", "no such folder"),
    ],
)
def test_places_that_cannot_be_are_told(credentials, place, says):
    with pytest.raises(DataError, match=says):
        find_files(place)


def test_one_slash_is_as_good_as_three_for_a_file(tmp_path):
    make_data(tmp_path / "data", rows=20, splits=("train",))
    for url in (f"file:{tmp_path}/data", f"file://localhost{tmp_path}/data"):
        assert len(find_files(join(url, "train"))[1]) == 3
        config = load_config(make_config(tmp_path, tmp_path), [f"data.path={url}"])
        assert load_schema(with_local_schema(config).schema_path()) == make_schema()


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("file://host/data", r"file://host/data: a file URL names a file of this machine .*file:///data"),
        ("file://data", r"file:///data\. For a path from the working folder, leave file: out"),
        ("s3:/bucket/data", "two slashes behind its scheme: s3://bucket/data"),
    ],
)
def test_urls_that_name_no_place_are_told(place, says):
    with pytest.raises(DataError, match=says):
        find_files(place)


SECRET = "s3://bucket/data?region=eu-west-1&access_key=AKIA123&secret_key=abc%2Fdef&session_token=tok"


@pytest.mark.parametrize(
    ("place", "kept"),
    [
        (SECRET, "s3://bucket/data?region=eu-west-1"),
        ("s3://AKIA123:abcdef@bucket/data", "s3://bucket/data"),
        ("s3://bucket/a?/b*?secret_key=abc", "s3://bucket/a?/b*"),
        ("s3://bucket/data?proxy_options=http%3A%2F%2Fme%3Aabc%40proxy&region=x", "s3://bucket/data?region=x"),
        ("hdfs://me@host:8020/data", "hdfs://me@host:8020/data"),
        ("/data/a?b=c", "/data/a?b=c"),
    ],
)
def test_keys_and_passwords_are_not_what_a_store_is_shown_by(place, kept):
    assert without_secrets(place) == kept


def test_what_a_run_writes_down_has_no_keys(tmp_path):
    config = load_config(make_config(tmp_path, tmp_path), [f"data.path={SECRET}", f"data.schema={SECRET}"])
    save_config(config, tmp_path / "config.toml")
    again = load_config(tmp_path / "config.toml")
    assert again.data.path == again.data.data_schema == config.data.shown == "s3://bucket/data?region=eu-west-1"
    state = TrainState(0, 0, False, ReaderPosition(0, 0, 1, 1, ""), 1)
    old = Record(state, {}, config.model_dump(mode="json", exclude_none=True, by_alias=True), {})
    assert Record.from_json(old.to_json()).config["data"]["path"] == "s3://bucket/data?region=eu-west-1"
    for action in (
        lambda: load_config(tmp_path / "config.toml", [f"data.pth={SECRET}"]),
        lambda: find_files(SECRET.replace("region", "colour")),
    ):
        with pytest.raises(UserError) as error:
            action()
        assert "AKIA123" not in str(error.value)


@pytest.mark.slow
@pytest.mark.e2e
def test_keys_in_the_data_path_are_in_no_file_of_a_run(server, tmp_path):
    """It trains and goes on with the keys of its command; its evaluation takes those of the environment."""
    data = make_data(tmp_path / "data", rows=300)
    upload(server, data, "keys")
    place = f"s3://keys/data?endpoint_override={server}&region=us-east-1&access_key=AKIA123&secret_key=abc123secret"
    config = make_config(tmp_path, data)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(tmp_path / "tmp")}
    environment["AWS_EC2_METADATA_DISABLED"] = "true"
    (tmp_path / "tmp").mkdir()
    texts = []

    def command(*arguments: str) -> None:
        line = [sys.executable, "-m", "home_dist.cli", *arguments]
        ended = forked.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        texts.append(ended.stdout + ended.stderr)

    for more in ((), ("--set", "train.epochs=2")):
        command("train", str(config), "--set", f"data.path={place}", *more)
    environment |= {"AWS_ACCESS_KEY_ID": "AKIA123", "AWS_SECRET_ACCESS_KEY": "abc123secret"}
    command("evaluate", str(tmp_path / "run"))
    written = [p for p in (tmp_path / "run").rglob("*") if p.is_file()]
    assert len(written) > 5
    for secret in ("AKIA123", "abc123secret"):
        assert not any(secret.encode() in p.read_bytes() for p in written)
        assert not any(secret in text for text in texts)


def test_a_schema_that_is_not_beside_remote_data_is_told(server, credentials, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").write_text("x")
    upload(server, tmp_path / "data", "bare")
    config = load_config(make_config(tmp_path, tmp_path))
    place = f"s3://bare/data?endpoint_override={server}&region=us-east-1"
    config = config.model_copy(update={"data": config.data.model_copy(update={"path": place})})
    with pytest.raises(UserError, match=r"s3://bare/data/schema.toml: no such file"):
        with_local_schema(config)


def test_a_url_of_a_file_is_a_folder(tmp_path):
    make_data(tmp_path / "some data", rows=20, splits=("train",))
    _, found = find_files(f"file://{tmp_path}/some%20data/train")
    assert [f.name for f in found] == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    config = load_config(make_config(tmp_path, tmp_path), [f"data.path=file://{tmp_path}/some%20data"])
    assert load_schema(with_local_schema(config).schema_path()) == make_schema()


def test_partitions_are_columns(tmp_path):
    """`tab`, integers, and `rate`, numbers with a missing one, stand in the folders' names alone."""
    schema = make_schema()
    layout = build_layout(schema, load_config(make_config(tmp_path, tmp_path)))
    folder = tmp_path / "train"
    for number, rate in enumerate(("0.5", "-2", "__HIVE_DEFAULT_PARTITION__")):
        part = folder / f"tab={number}" / f"rate={rate}"
        part.mkdir(parents=True)
        pq.write_table(make_rows(40, seed=number).drop(["tab", "rate"]), part / "x.parquet", row_group_size=15)
    files = open_files(folder, schema, layout)
    seen = []
    for batch in Reader(files, schema, layout, batch_size=16, seed=1, window_rows=50).epoch(0):
        seen += [tuple(row) for row in batch.small[batch.mask.bool()].tolist()]
    assert sorted(set(seen)) == [(0, 3), (1, 1), (2, 0)]
    assert [seen.count(x) for x in sorted(set(seen))] == [40, 40, 40]
    shutil.move(folder / "tab=0", folder / "tab=x")
    with pytest.raises(DataError, match="partition tab=x: whole numbers are needed"):
        open_files(folder, schema, layout)
