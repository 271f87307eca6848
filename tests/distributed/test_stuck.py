"""A rank whose main thread waits for a GPU, and hears of no error, ends with a message when another rank is gone."""

import os
import signal
import socket

import pytest

from tests.ranks import finish, run_module, start

pytestmark = pytest.mark.distributed
HERE = "tests.distributed.stuck_ranks"


def test_ranks_that_answer_are_waited_for_and_leave():
    ended = run_module(3, HERE, 2, "works")
    assert [text.count("left") for text in ended.outputs] == [1] * 3
    assert "lost contact" not in ended.text


@pytest.mark.parametrize(("sent", "state"), [("SIGSTOP", "does not answer"), ("SIGKILL", "is gone")])
def test_one_that_is_silent_ends_the_others(sent, state):
    processes = start(3, 6, sent, module=HERE)
    for rank in (0, 2):  # 0 asks rank 1; 2 asks rank 0
        processes[rank].wait(60)
    os.kill(processes[1].pid, signal.SIGKILL)
    ended = finish(processes)
    assert [ended.codes[0], ended.codes[2]] == [5, 5], ended.text
    assert f"rank 1 on {socket.gethostname()} {state}" in ended.outputs[0]
    assert "go on from the newest checkpoint" in ended.outputs[2]
