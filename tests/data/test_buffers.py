import threading

import numpy as np
import pytest
import torch

from home_dist.data.buffers import Buffers

VALUES = 100_000


def place(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize(
    "hold", [lambda a: a, lambda a: a[5:7], lambda a: a[::2].T, lambda a: torch.from_numpy(a)[3:].view(-1)]
)
def test_memory_is_used_again_when_the_last_view_or_tensor_of_it_is_gone(hold):
    buffers = Buffers(64 << 20)
    array = buffers.empty((VALUES,), np.int64)
    first, held = place(array), hold(array)
    del array
    another = buffers.empty((VALUES,), np.int64)
    assert place(another) != first
    assert buffers.idle() == 0
    del held
    assert buffers.idle() >= 8 * VALUES
    assert place(buffers.empty((2, VALUES + 50), np.float32)) == first  # lists of a little more values fit, too


def test_small_wishes_leave_large_memory_alone():
    buffers = Buffers(64 << 20)
    first = place(buffers.empty((VALUES,), np.int64))
    assert place(buffers.empty((VALUES // 4,), np.int64)) != first
    assert place(buffers.empty((VALUES,), np.int64)) == first


def test_idle_memory_is_bounded():
    buffers = Buffers(kept=2 << 20)
    held = [buffers.empty((n, 1 << 10), np.uint8) for n in range(100, 1100, 100)]
    shapes = [array.shape for array in held]
    assert shapes == [(n, 1 << 10) for n in range(100, 1100, 100)]
    held.clear()
    assert 1 << 20 < buffers.idle() <= 2 << 20


def test_threads_never_hold_the_same_memory():
    buffers, wrong = Buffers(64 << 20), []

    def work(number: int) -> None:
        held = []
        for turn in range(200):
            array = buffers.empty((20_000 + 100 * (turn % 7),), np.int64)
            array[:] = 1000 * number + turn
            held.append((array, 1000 * number + turn))
            if len(held) == 4:
                kept, value = held.pop(turn % 4)
                if (kept != value).any():
                    wrong.append(value)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
