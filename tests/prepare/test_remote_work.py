"""A preparation from S3 to S3, whose workers share no disk, writes the bytes that one on a disk writes."""

import errno
import http.client
import itertools
import socket
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pyarrow import fs

from home_dist.errors import ConfigError, DataError
from home_dist.files import remote
from home_dist.files.remote import Gone, StoreError
from home_dist.files.remote_claim import Claim
from home_dist.prepare.engine import LocalEngine, RemoteWork
from home_dist.prepare.generic import LogOptions, prepare_log
from home_dist.prepare.generic.output import output_of
from home_dist.prepare.progress import Progress
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
    place = lambda below, at=server: f"s3://{name}/{below}?endpoint_override={at}&region=us-east-1"  # noqa: E731
    text = (prepared / "mylog.toml").read_text()
    text = text.replace('log = "log/*"', f'log = "{place("data/*")}"')
    (tmp_path / "mylog.toml").write_text(text.replace('"video.csv"', f'"{place("side/video.csv")}"'))
    return place


def fetched(place, to):
    for name in remote.names_below(place("out")):
        remote.fetch(place(f"out/{name}"), to / name)
    return to


def compare(out, prepared):
    mine, theirs = digest(out), digest(prepared / "out")
    assert {n for n in mine if mine[n] != theirs[n]} == {"report.json"}  # which names the log's files
    assert mine.keys() == theirs.keys()


@pytest.mark.parametrize("parts", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_s3_in_and_out(bucket, prepared, tmp_path, parts, monkeypatch):
    copy, copied = remote.copy, []
    monkeypatch.setattr(
        remote, "copy", lambda source, target: copied.append(target.partition("/out/")[2]) or copy(source, target)
    )
    prepare_log(tmp_path / "mylog.toml", bucket("out"), QUIET, LogOptions(partitions=parts, processes=parts))
    compare(fetched(bucket, tmp_path / "out"), prepared)
    assert remote.names_below(bucket("out.work")) == []
    files = [
        n
        for n in remote.names_below(bucket("out"))
        if n.startswith(("train/", "test/", "validation/", "state/events", "state/past"))
    ]
    assert {n.partition("?")[0] for n in copied} == set(files)  # by the store, not through this machine
    again = "is there already. Remove it, or choose another folder"
    for use, left in (("work", []), ("output", [".home_dist", "plan.json"])):
        Claim(bucket("out.work"), use).write()  # as a command leaves it that was killed behind its output, and another folder
        remote.put_bytes(b"{}", bucket("out.work/plan.json"))
        with pytest.raises(DataError, match=rf"s3://b\d+/out\S* {again}"):
            prepare_log(tmp_path / "mylog.toml", bucket("out"), QUIET, LogOptions())
        assert remote.names_below(bucket("out.work")) == left


class Unsteady(ThreadingHTTPServer):
    """In front of the server: answers 503 where `fails(method, path)` says so, and hands on the rest."""

    daemon_threads = True

    def __init__(self, behind, fails):
        self.behind, self.fails, self.failed = behind.removeprefix("http://"), fails, 0
        super().__init__(("127.0.0.1", 0), _Handed)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.server_port}"


class _Handed(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def _hand(self):
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "")
        body = self._chunks() if chunked else self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.fails(self.command, self.path):
            self.server.failed += 1
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        behind = http.client.HTTPConnection(self.server.behind, timeout=20)
        behind.request(self.command, self.path, body, dict(self.headers))
        answer = behind.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for key, value in answer.getheaders():
            if key.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(key, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", str(length or 0))
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()
        behind.close()

    def _chunks(self):
        """The body as it came, sizes of its chunks included."""
        raw, size = b"", 1
        while size:
            line = self.rfile.readline()
            size = int(line.partition(b";")[0], 16)
            raw += line + (self.rfile.read(size + 2) if size else b"")
        while (line := self.rfile.readline()).strip():
            raw += line
        return raw + line

    def handle_expect_100(self):
        goes_on = super().handle_expect_100()
        self.wfile.flush()  # else a client waits a second before it sends each body
        return goes_on

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _hand  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.mark.slow
def test_errors_that_pass_do_not_show(server, bucket, prepared, tmp_path):
    counted = itertools.count(1)
    unsteady = Unsteady(server, lambda method, path: next(counted) % 60 == 0)
    text = (tmp_path / "mylog.toml").read_text()
    (tmp_path / "mylog.toml").write_text(text.replace(server, unsteady.endpoint))
    prepare_log(tmp_path / "mylog.toml", bucket("out", unsteady.endpoint), QUIET, LogOptions(partitions=2))
    assert unsteady.failed > 3
    unsteady.shutdown()
    compare(fetched(bucket, tmp_path / "out"), prepared)


@pytest.mark.slow
def test_errors_that_stay_leave_nothing_half_written_and_the_same_command_goes_on(server, bucket, prepared, tmp_path):
    broken, told = [True], []
    unsteady = Unsteady(server, lambda method, path: broken[0] and method == "PUT" and "/out/validation/" in path)
    out, options = bucket("out", unsteady.endpoint), LogOptions(partitions=2, work=bucket("work"))
    failed = r"cannot write s3://b\d+/out/validation/part-00000.parquet.*Tried 3 times; the same command"
    with pytest.raises(StoreError, match=failed):
        prepare_log(tmp_path / "mylog.toml", out, Progress(told.append), options)
    assert remote.names_below(bucket("out")) == []
    broken[0] = False
    Claim(bucket("out"), "output").write()  # as a killed command leaves it
    remote.put_bytes(b"half", bucket("out/train/part-00009.parquet"))
    prepare_log(tmp_path / "mylog.toml", out, Progress(told.append), options)
    assert any("going on in s3://" in line for line in told)
    compare(fetched(bucket, tmp_path / "out"), prepared)
    unsteady.shutdown()


def test_an_error_while_the_log_is_read_names_the_file(server, bucket, tmp_path):
    unsteady = Unsteady(server, lambda method, path: method == "GET" and "2.parquet" in path)
    text = (tmp_path / "mylog.toml").read_text()
    (tmp_path / "mylog.toml").write_text(text.replace(server, unsteady.endpoint))
    with pytest.raises(StoreError, match=r"cannot read s3://b\d+/data/2.parquet: the store answers with an error"):
        prepare_log(tmp_path / "mylog.toml", bucket("out"), QUIET, LogOptions(partitions=2))
    assert remote.names_below(bucket("out")) == []
    unsteady.shutdown()


def test_work_whose_files_were_removed_is_begun_anew(bucket, tmp_path, monkeypatch):
    def removing(self, stage, *rest):
        if stage == "gather":
            remote.remove_below(remote.join(self._files, "scan/00000"))
        return run(self, stage, *rest)

    run = RemoteWork.run
    monkeypatch.setattr(RemoteWork, "run", removing)
    gone = r"/out.work/\w+/scan/00000/\S+: another command, or a rule of the bucket, removed .* The same command begins anew"
    with pytest.raises(Gone, match=gone):
        prepare_log(tmp_path / "mylog.toml", bucket("out"), QUIET, LogOptions(partitions=1))
    assert remote.names_below(bucket("out.work")) == []


def test_a_full_disk_of_this_machine_is_told_at_once():
    tries = []

    def full():
        tries.append(1)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as raised:
        remote.tried("fetch", "s3://b/x", full)
    assert len(tries) == 1
    told = str(output_of("s3://b/out").unwritten(raised.value, LogOptions()))
    assert "s3://" not in told
    assert f"{tempfile.gettempdir()} on {socket.gethostname()}: cannot be written" in told
    missing = FileNotFoundError(errno.ENOENT, "Path does not exist 'b/data/1.parquet'")
    assert "a file was removed meanwhile" in str(output_of("s3://b/out").unwritten(missing, LogOptions()))
    assert "Make room, or choose another folder" in str(output_of("out").unwritten(raised.value, LogOptions()))


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--work w: a URL is needed"):
        LogOptions(work="w").checked()
    for like in ("s3://b/out", "s3://b/out?region=x&secret_key=abc"):
        with pytest.raises(ConfigError, match=r"^--like s3://b/out(\?region=x)?: data in a store cannot be gone on from. Copy"):
            prepare_log(tmp_path / "mylog.toml", tmp_path / "out", QUIET, LogOptions(like=Path(like)))
    with pytest.raises(ConfigError, match="cannot be written to; give a path, or a URL"):
        prepare_log(tmp_path / "mylog.toml", "hdfs://host/out", QUIET)
    nested = [
        ("s3://b/p/out", "s3://b/p"),
        ("s3://b/out", "s3://b/out/work/?region=x"),
        ("s3://b/out/", "s3://me:abc@b/out"),
        ("s3://b/out", "s3://b"),
    ]
    for out, work in nested:
        with pytest.raises(ConfigError, match=r"^--work s3://b\S* and the output s3://b/\S+ are one folder, or one lies in"):
            output_of(out).open_work(LogOptions(work=work), {}, LocalEngine(1), QUIET)
    with pytest.raises(DataError, match="the description holds a secret"):
        remote.remote_files("s3://b/x?secret_key=abc")


def test_names_of_urls():
    assert remote.beside("s3://b/out/?region=x", ".work") == "s3://b/out.work?region=x"
    assert remote.beside("s3://b/out", ".work") == "s3://b/out.work"
    assert remote.beside("s3://b/q?x/out?region=x", ".work") == "s3://b/q?x/out.work?region=x"
    assert remote.join("s3://b/q?x", "state/a") == "s3://b/q?x/state/a"
