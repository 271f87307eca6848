"""Who works is waited for, however long it takes; who is stopped or dead is not."""

import os
import signal
import socket

import pytest

from tests.ranks import finish, run_module, start

pytestmark = pytest.mark.distributed
HERE = "tests.distributed.meeting_ranks"


def test_a_rank_that_works_for_long_is_waited_for():
    ended = run_module(3, HERE, 2, "works")
    assert [f"did {rank}" in text for rank, text in enumerate(ended.outputs)] == [True] * 3


@pytest.mark.parametrize(("sent", "state"), [("SIGSTOP", "does not answer"), ("SIGKILL", "is gone")])
def test_one_that_is_silent_is_not(sent, state):
    processes = start(3, 3, sent, module=HERE)
    for rank in (0, 2):
        processes[rank].wait(60)
    os.kill(processes[1].pid, signal.SIGKILL)
    ended = finish(processes)
    assert [ended.codes[0], ended.codes[2]] == [5, 5], ended.text
    assert f"rank 1 on {socket.gethostname()} {state}" in ended.outputs[0]
    assert "lost contact" in ended.outputs[2]
