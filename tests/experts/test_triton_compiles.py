"""Every Triton kernel, with every tile size, compiled ahead of time for three GPUs: no register spills, and shared memory
within the device's. No GPU is needed; a configuration takes a second or two. The fast tests are of the tiles that are taken
without a measurement, on one GPU; the slow ones take the GPUs in turn. benchmarks/gpu_kernels.py compiles all for all."""

import itertools
import os
from collections.abc import Sequence

import pytest

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels do not compile", allow_module_level=True)

from benchmarks.gpu_kernels import (
    SHARED,
    Configuration,
    compiled,
    feature_gates,
    gate_weights,
    mixture_shapes,
    mixtures,
    pairs,
    products,
)

ALL = [*products(), *mixtures(), *gate_weights(), *feature_gates(), *pairs()]
MEASURED = [one for one in ALL if "candidate" in one.name]
FIRST = [one for one in ALL if one not in MEASURED]


def fits(one: Configuration, capability: int) -> None:
    usage = compiled(one, capability)
    assert usage.stack == 0, f"spills to {usage.stack} bytes of stack at {usage.registers} registers"
    assert usage.shared <= SHARED[capability]
    assert usage.in_flight(capability) >= 4


def in_turn(configurations: list[Configuration], capabilities: Sequence[int]) -> list[object]:
    turns = zip(configurations, itertools.cycle(capabilities), strict=False)
    return [pytest.param(one, capability, id=f"{capability}-{one.name}") for one, capability in turns]


@pytest.mark.parametrize("one", FIRST, ids=lambda one: one.name)
def test_fits_the_device(one):
    fits(one, 90)


@pytest.mark.slow
@pytest.mark.parametrize(("one", "capability"), in_turn(FIRST, (80, 100)))
def test_fits_another_device(one, capability):
    fits(one, capability)


@pytest.mark.slow
@pytest.mark.parametrize(("one", "capability"), in_turn([*MEASURED, *mixture_shapes()], list(SHARED)))
def test_what_is_measured_fits_a_device(one, capability):
    fits(one, capability)
