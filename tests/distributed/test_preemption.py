"""A run that is asked to leave: a checkpoint of that very step, exit code 75, and the same end as a run that was left alone."""

import re
import signal
import subprocess
import sys

import pytest
import torch

from home_dist.training.checkpoint.reading import open_stored
from tests.factory import make_config, make_data
from tests.ranks import REPOSITORY, finish, run, settings, start

pytestmark = [pytest.mark.distributed, pytest.mark.slow]
OPTIONS = settings(
    data__validation="''", data__test="''", train__epochs=30, train__max_steps=100, log__every_steps=1, embedding__dropout=0.1
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preempted")
    make_data(folder / "data", rows=800, files=2, row_group=100)
    return folder


def config(folder, name):
    own = folder / name
    own.mkdir()
    return make_config(own, folder / "data", batch_size=32)


def newest(folder, name):
    return sorted((folder / name / "run" / "checkpoints").glob("step-*"))[-1]


def signalled(processes, read, target, sent):
    """Sends a signal once step 10 is told; returns what was written until then."""
    lines = []
    for line in read.stdout:
        lines.append(line)
        if re.search(r"step +10/100", line):
            target.send_signal(sent)
            return "".join(lines)
    raise AssertionError("".join(lines) + str([p.poll() for p in processes]))


def test_one_rank_is_asked_and_all_leave_at_one_step(folder):
    path = config(folder, "stopped")
    processes = start(2, "train", path, *OPTIONS)
    signalled(processes, processes[0], processes[1], signal.SIGUSR1)
    ended = finish(processes, timeout=60)
    assert ended.codes == [75, 75], ended.text
    told = re.findall(r"asked to leave at step (\d+) of 100; the same command goes on from (\S+)", ended.text)
    assert len(told) == 1, ended.text
    step = int(told[0][0])
    assert 10 < step < 100
    assert told[0][1] == str(newest(folder, "stopped"))
    assert newest(folder, "stopped").name == f"step-{step:08d}"
    again = run(2, "train", path, *OPTIONS, timeout=300)
    assert again.codes == [0, 0], again.text
    assert f"step {step} of 100" in again.text
    whole = run(2, "train", config(folder, "whole"), *OPTIONS, timeout=300)
    assert whole.codes == [0, 0], whole.text
    (expected, _), (found, _) = (open_stored(newest(folder, name)) for name in ("whole", "stopped"))
    assert expected.tensors.keys() == found.tensors.keys()
    assert [n for n in expected.tensors if not torch.equal(expected.whole(n), found.whole(n))] == []


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGUSR1])
def test_torchrun_hands_on_what_a_scheduler_sends(folder, sent):
    name = f"torchrun-{sent.name}"
    path = config(folder, name)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-endpoint", "localhost:0"]
    command += ["--signals-to-handle", "SIGTERM,SIGUSR1"]
    command += ["--rdzv-backend", "c10d", "-m", "home_dist.cli", "train", str(path), *OPTIONS]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": REPOSITORY}
    launcher = subprocess.Popen(command, **pipes)
    before = signalled([launcher], launcher, launcher, sent)
    ended = finish([launcher], timeout=60)
    assert ended.codes[0] != 0
    step = int(newest(folder, name).name.removeprefix("step-"))
    assert 10 < step < 100, before + ended.text
    assert f"asked to leave at step {step} of 100" in ended.text
