"""A rank that stops answering: found within the timeout, and named with its host, while the others tell where they are."""

import os
import re
import signal
import socket

import pytest

from tests.factory import make_config, make_data
from tests.ranks import finish, settings, start

pytestmark = pytest.mark.distributed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "first", "state"),
    [(signal.SIGSTOP, 1, "does not answer"), (signal.SIGSTOP, 5, "does not answer"), (signal.SIGKILL, 5, "is gone")],
)
def test_the_rank_is_named(sent, first, state, tmp_path):
    data = make_data(tmp_path / "data", rows=20000, files=2, splits=("train",))
    config = make_config(tmp_path, data, batch_size=16)
    options = settings(distributed__timeout=6, data__validation="", data__test="", insight__every_steps=0)
    processes = start(3, "train", config, *options)
    for line in processes[0].stdout:
        if re.match(rf"step +{first}/", line):
            break
    os.kill(processes[1].pid, sent)
    try:
        processes[0].wait(60)
    finally:
        os.kill(processes[1].pid, signal.SIGKILL)
    ended = finish(processes)
    text = ended.outputs[0] + ended.outputs[2]
    assert [ended.codes[0], ended.codes[2]] == [5, 5], text
    assert f"rank 1 on {socket.gethostname()} {state} (this rank was in step " in text
    assert f"rank 2 on {socket.gethostname()} answers: step " in ended.outputs[0] or "rank 0 on" in ended.outputs[2]
    assert "Traceback" not in text
