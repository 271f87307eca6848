"""A test begins with the threads that the environment tells, whatever tests before it have set."""

import os

import pytest
import torch


@pytest.mark.parametrize("left", [3, 2])
def test_threads_that_another_test_has_left_are_gone(left):
    assert torch.get_num_threads() == int(os.environ["OMP_NUM_THREADS"])
    torch.set_num_threads(left)
