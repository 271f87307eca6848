"""The sample's training on a real Slurm cluster of two nodes: `make test-slurm`, which runs this within cluster.sh."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.ranks import REPOSITORY

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        shutil.which("squeue") is None or "HOME_DIST_SLURM" not in os.environ, reason="no cluster: make test-slurm"
    ),
]

COMPONENT = str(REPOSITORY / "launchers" / "components.py:train")
ENDED = ("COMPLETED", "FAILED", "CANCELLED")


class Job:
    """Of two nodes with a rank each, submitted from a folder that gets its output."""

    def __init__(self, folder: Path, run: Path, retries: int = 0):
        config = REPOSITORY / "configs" / "kuairand_pure.toml"
        settings = [f"run.dir={run}", f"data.path={REPOSITORY / 'examples' / 'kuairand_pure'}", "log.tensorboard=false"]
        self.folder = folder
        folder.mkdir(exist_ok=True)
        told = self._torchx(
            *("run", "-s", "slurm", COMPONENT, "--config", str(config), "-j", "2x1", "--max_retries", str(retries)),
            *("--set", *settings),
        )
        self.handle = re.search(r"^slurm://torchx/\d+$", told, re.M).group()
        self.number = self.handle.rpartition("/")[2]

    def _torchx(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "torchx.cli.main", *arguments]
        # The job gets the environment that it was submitted from.
        environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | {"PYTHONPATH": str(REPOSITORY)}
        ended = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=120)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def state(self) -> str:
        """As Slurm's accounting has it, of the worst off of the job's parts. torchx 0.7 fails at "CANCELLED by 0"."""
        command = ["sacct", "--noheader", "--parsable2", "--allocations", "--jobs", self.number, "--format", "State"]
        told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        states = {line.split()[0] for line in told.splitlines()}
        return next((s for s in ("RUNNING", "PENDING", "REQUEUED", *ENDED[::-1]) if s in states), "UNKNOWN")

    def status(self) -> str:
        """As torchx tells it."""
        return self._torchx("status", self.handle)

    def cancel(self) -> None:
        self._torchx("cancel", self.handle)

    def output(self) -> str:
        return "\n".join(p.read_text() for p in sorted(self.folder.glob(f"slurm-{self.number}*")))

    def wait(self, condition: Callable[[], object], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{self.state()}\n{self.output()}"
            time.sleep(1)

    def end(self, seconds: float = 400) -> str:
        """Follows the job until nothing of it runs any more; what it ended as."""
        self.wait(lambda: self.state() in ENDED and not self._queued(), seconds)
        return self.state()

    def _queued(self) -> bool:
        """A cancelled job is CANCELLED at once, and completing for as long as its processes need."""
        told = subprocess.run(["squeue", "--noheader", "--jobs", self.number], capture_output=True, text=True, timeout=60)
        return bool(told.stdout.strip())

    def wait_for_step(self, step: int) -> None:
        self.wait(lambda: re.search(rf"^step +{step}/", self.output(), re.M), 200)


def figures(run: Path) -> dict[str, object]:
    return json.loads((run / "evaluation.json").read_text())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    job = Job(folder / "job", folder / "run")
    assert job.end() == "COMPLETED", job.output()
    assert "State: SUCCEEDED" in job.status()
    return folder / "run"


def ranks_of(run: Path) -> list[psutil.Process]:
    """Processes that train it, on both nodes: the machine is one."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if "home_dist.cli" in line and "home_dist.torchrun" not in line and f"run.dir={run}" in line:
            found.append(process)
    return found


def test_a_run_on_two_nodes_ends(undisturbed):
    found = figures(undisturbed)
    assert found["step"] == 328
    assert {"validation", "test"} <= set(found) | set(found.get("splits", {}))


def test_a_cancelled_job_writes_a_checkpoint_and_the_next_one_goes_on(undisturbed, tmp_path):
    run = tmp_path / "run"
    first = Job(tmp_path / "first", run)
    first.wait_for_step(60)
    first.cancel()
    assert first.end(120) == "CANCELLED"
    assert re.search(r"asked to leave at step \d+ of 328; the same command goes on from", first.output()), first.output()
    [left] = (run / "checkpoints").iterdir()
    assert 60 <= int(left.name.removeprefix("step-")) < 328

    second = Job(tmp_path / "second", run, retries=1)
    second.wait_for_step(200)
    assert f"resuming from {left}" in second.output()
    assert len(ranks_of(run)) == 2
    ranks_of(run)[0].send_signal(signal.SIGKILL)
    # Slurm starts it again itself, and both nodes go on from the newest checkpoint.
    second.wait(lambda: not ranks_of(run), 120)
    second.wait(lambda: (run / "evaluation.json").is_file(), 400)
    assert second.end() == "COMPLETED", second.output()
    assert figures(run) == figures(undisturbed)
