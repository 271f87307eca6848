"""The C++ pool of threads: the same results from several callers at once, and beside busy processes."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from home_dist import ExpertBank
from tests.forked import popen
from tests.ranks import REPOSITORY

SAMPLES = 700
"""Several pieces of work for each expert."""


def gradients(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    bank = ExpertBank([3, 2], 20, [17, 9], 5, norm=True)
    with torch.no_grad():
        for weight in bank.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    inputs = [torch.randn(SAMPLES, 20, generator=generator, requires_grad=True) for _ in range(2)]
    gates = torch.rand(4, SAMPLES, 5, generator=generator)
    out = bank.mixed(inputs, gates)
    return [out.detach(), *torch.autograd.grad(out.square().sum(), [*inputs, *bank.parameters()])]


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_callers_at_the_same_time_get_what_each_gets_alone(four_threads):
    expected = [gradients(seed) for seed in range(3)]
    with ThreadPoolExecutor(3) as callers:
        for _ in range(20):
            assert all(map(same, callers.map(gradients, range(3)), expected))


def test_many_short_turns_lose_no_piece(four_threads):
    expected = gradients(0)
    for _ in range(300):
        assert same(gradients(0), expected)


BUSY = "while True: pass"
WATCHED = """
import torch
from tests.experts.test_pool import gradients

torch.set_num_threads(4)
gradients(0)
for _ in range(50):
    gradients(0)
print("done")
"""


def test_it_ends_beside_processes_that_hold_every_core():
    busy = [popen([sys.executable, "-c", BUSY]) for _ in range(2 * len(os.sched_getaffinity(0)))]
    try:
        run = popen([sys.executable, "-W", "ignore", "-c", WATCHED], cwd=REPOSITORY, stdout=-1, text=True)
        out, _ = run.communicate(timeout=120)
        assert out.strip() == "done"
    finally:
        for process in busy:
            process.kill()
            process.wait()
