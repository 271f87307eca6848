"""An S3 server on loopback: fixtures, to be imported into a module of tests."""

import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager

import pytest
from pyarrow import fs


@pytest.fixture(scope="module")
def server():
    """moto's S3 server; gives its endpoint."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def machine(folder):
    """What runs within it has the temporary files and the locks of another machine."""
    folder.mkdir(exist_ok=True)
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


@pytest.fixture
def credentials(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def upload(endpoint, folder, bucket):
    to = fs.S3FileSystem(
        access_key="someone", secret_key="secret", endpoint_override=endpoint, region="us-east-1", allow_bucket_creation=True
    )
    to.create_dir(bucket)
    fs.copy_files(str(folder), f"{bucket}/data", source_filesystem=fs.LocalFileSystem(), destination_filesystem=to)
    return to


def in_new_bucket(endpoint, folder, request, below):
    """The URL of a folder `below` in a bucket of the test's own."""
    bucket = f"{below}-{abs(hash(request.node.name)) % 10**9}"
    (folder / "empty").mkdir()
    upload(endpoint, folder / "empty", bucket)
    return f"s3://{bucket}/{below}?endpoint_override={endpoint}&region=us-east-1"
