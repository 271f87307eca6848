"""Real jobs of two processes, through torchx's command line."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.ranks import REPOSITORY, free_port

pytestmark = pytest.mark.distributed


def torchx(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """`torchx run`, with its logs in `folder`. OMP_NUM_THREADS is left for the job to set."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    run = [sys.executable, "-m", "torchx.cli.main", "--log_level", "WARNING", "run", "-cfg", f"log_dir={folder}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*run, *arguments], cwd=REPOSITORY, env=environment, **pipes)


def start(folder: Path, how: str, *more: str) -> subprocess.Popen[str]:
    return torchx(folder, "tests/launchers/trivial_component.py:trivial", "--how", how, *more)


def test_ranks_meet_and_output_is_shown_once(tmp_path):
    process = start(tmp_path, "ok")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    lines = [line for line in output.splitlines() if not line.startswith("local_cwd://")]
    assert lines == [f"ok/0 sum 2 threads {threads} rest ['two words', '$HOME', '[1,2]']"]


def test_two_nodes_meet(tmp_path):
    process = start(tmp_path, "ok", "-j", "2x1", "--port", str(free_port()))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert output.count("sum 2") == 1


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("fail", ["error: rank 1 refuses", "run failed: rank 1 ended with exit code 3"]),
        ("kill", ["run failed: rank 1 was ended by SIGKILL; the system does that when memory is used up"]),
    ],
)
def test_a_failing_rank_ends_the_job(tmp_path, how, told):
    process = start(tmp_path, how)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    for line in told:
        assert line in output
    assert "Traceback" not in output


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_stopping_leaves_no_process_behind(tmp_path, sent):
    process = start(tmp_path, "hang")
    for line in process.stdout:
        if "sum 2" in line:
            break
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) == 3  # torchrun and two ranks
    process.send_signal(sent)
    process.communicate(timeout=60)
    assert process.returncode != 0
    deadline = time.monotonic() + 20
    while any(c.is_running() and c.status() != psutil.STATUS_ZOMBIE for c in children):
        assert time.monotonic() < deadline, "ranks outlive torchx"
        time.sleep(0.1)


def test_an_error_of_the_program_is_shown_once(tmp_path):
    options = ("--set", "train.batch_size=none")
    process = torchx(tmp_path, "launchers/components.py:train", "--config", "configs/kuairand_pure.toml", "-j", "1x2", *options)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert output.count("train.batch_size: Input should be a valid integer") == 1


def test_a_configuration_that_is_not_there_starts_no_process(tmp_path):
    process = torchx(tmp_path, "launchers/components.py:train", "--config", "configs/absent.toml", "-j", "1x2")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert output.count("configs/absent.toml: no such file") == 1
    assert "torchrun" not in output


@pytest.mark.parametrize(("how", "code"), [("ok", 0), ("fail", 3), ("kill", 137)])
def test_torchrun_hands_the_exit_code_on(how, code):
    command = [sys.executable, "-m", "home_dist.torchrun", "--nproc_per_node", "2", "--rdzv_endpoint", "localhost:0"]
    command += ["--rdzv_backend", "c10d", "-m", "tests.launchers.trivial_job", how]
    assert subprocess.run(command, cwd=REPOSITORY, timeout=120, capture_output=True).returncode == code
