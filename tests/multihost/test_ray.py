"""`prepare --engine ray` on hosts that share no disk: each has its own network, scratch folder and view of the inputs."""

import importlib.util
import os
import re
import shutil
import sys
import time
from pathlib import Path

import pytest

from home_dist.prepare.generic import LogOptions, prepare_log
from tests.multihost.hosts import Hosts, why_not
from tests.prepare.test_engine import QUIET, digest, write
from tests.ranks import REPOSITORY

pytestmark = [
    pytest.mark.slow,
    pytest.mark.distributed,
    pytest.mark.skipif(bool(why_not()), reason=f"no network namespaces: {why_not()}"),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'home_dist[ray]'"),
]

RAY = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--object-store-memory=80000000"]
# Within a host: its own scratch folder, at the same path on each; workers do not see the inputs' folder either.
OWN_DISK = 'mount -t tmpfs none "$SCRATCH" && if [ -n "$HIDDEN" ]; then mount -t tmpfs none "$HIDDEN"; fi && cd / && exec "$@"'
DRIVER = '"$@" >"$SCRATCH/head.log" 2>&1 & cd / && exec $PREPARE'


def own_disk(*command: str) -> list[str]:
    return ["sh", "-c", OWN_DISK, "sh", *command]


def puts(log: str, address: str) -> list[str]:
    """Paths that the host has written to, as the server tells."""
    return re.findall(rf'^{re.escape(address)} .*"PUT ([^ ?"]+)', re.sub(r"\x1b\[[\d;]*m", "", log), re.M)


def wait_for(condition, seconds: float, told) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, told()
        time.sleep(0.3)


def test_workers_that_share_no_disk_write_the_same_bytes(tmp_path, monkeypatch):
    inputs, scratch, logs = tmp_path / "inputs", Path(f"/tmp/hd-{os.getpid()}"), tmp_path / "logs"
    for folder in (inputs, scratch, logs):
        folder.mkdir()
    description = write(inputs)
    prepare_log(description, tmp_path / "expected", QUIET, LogOptions(partitions=1))
    path = os.pathsep.join(p for p in (str(REPOSITORY), os.environ.get("PYTHONPATH", "")) if p)
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_EC2_METADATA_DISABLED": "true",
        "RAY_USAGE_STATS_ENABLED": "0",
        "SCRATCH": str(scratch),
        "TMPDIR": str(scratch),
        "HIDDEN": "",
    }
    try:
        with Hosts(["store", "head", "one", "two"], logs) as hosts:
            endpoint, head = f"http://{hosts.address('store')}:5000", f"{hosts.address('head')}:6379"
            moto = [sys.executable, "-m", "moto.server", "-H", hosts.address("store"), "-p", "5000"]
            hosts.start("store", moto, REPOSITORY, environment | {"TMPDIR": "/tmp"})
            url = f"s3://logs/NAME?endpoint_override={endpoint}&region=us-east-1"
            text = description.read_text().replace('"log/*"', f'"{url.replace("NAME", "log/*")}"')
            description.write_text(text.replace('"video.csv"', f'"{url.replace("NAME", "side/video.csv")}"'))
            arguments = [str(description), url.replace("NAME", "out"), "--engine", "ray", "--processes", "2", "--no-page"]
            upload = [sys.executable, "-m", "tests.multihost.s3_folder", "put", endpoint, str(inputs), "logs"]
            uploading = hosts.start("head", upload, REPOSITORY, environment | {"TMPDIR": "/tmp"})
            assert uploading.wait(60) == 0, hosts.output("head").read_text()
            command = [sys.executable, "-m", "home_dist.cli", "prepare", *arguments]
            own = ["--node-ip-address", hosts.address("head"), "--temp-dir", f"{scratch}/ray", "--include-dashboard=false"]
            started = [*RAY, "--head", "--port=6379", "--num-cpus=0", *own]
            drive = own_disk("sh", "-c", DRIVER, "sh", *started)
            prepare = {"PREPARE": " ".join(command), "RAY_ADDRESS": head}
            driver = hosts.start("head", drive, REPOSITORY, environment | prepare)
            for name in ("one", "two"):
                joined = own_disk(*RAY, f"--address={head}", "--num-cpus=1", "--node-ip-address", hosts.address(name))
                later = ["sh", "-c", 'sleep 8; exec "$@"', "sh", *joined]  # the head must listen
                hosts.start(name, later, REPOSITORY, environment | {"HIDDEN": str(inputs)})
            told = lambda: "\n".join(hosts.output(n).read_text()[-3000:] for n in hosts.names)  # noqa: E731
            wait_for(lambda: driver.poll() is not None, 300, told)
            assert driver.returncode == 0, told()
            written = {name: puts(hosts.output("store").read_text(), hosts.address(name)) for name in ("head", "one", "two")}
            fetched = tmp_path / "out"
            fetch = [sys.executable, "-m", "tests.multihost.s3_folder", "get", endpoint, str(fetched), "logs/out"]
            fetching = hosts.start("store", fetch, REPOSITORY, environment | {"TMPDIR": "/tmp"})
            assert fetching.wait(60) == 0, told()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    assert not any(re.search(r"/\d{5}/\w", path) for path in written["head"]), "the driver ran tasks itself"
    for name in ("one", "two"):
        assert any(re.search(r"/out.work/\w+/[\w-]+/\d{5}/", path) for path in written[name]), written
    mine, theirs = digest(fetched), digest(tmp_path / "expected")
    assert {n for n in mine if mine[n] != theirs[n]} == {"report.json"}  # which names the log's files
    assert mine.keys() == theirs.keys()
