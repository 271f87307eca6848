"""Every Triton kernel, with every tile size, compiled ahead of time for three GPUs: no register spills, and shared memory
within the device's. No GPU is needed; a configuration takes a second or two. The fast tests are of the tiles that are taken
without a measurement."""

import os

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

CAPABILITIES = [pytest.param(80, marks=pytest.mark.slow), 90, pytest.param(100, marks=pytest.mark.slow)]
ALL = [*products(), *mixtures(), *gate_weights(), *feature_gates(), *pairs()]
MEASURED = [one for one in ALL if "candidate" in one.name]
FIRST = [one for one in ALL if one not in MEASURED]


def fits(one: Configuration, capability: int) -> None:
    usage = compiled(one, capability)
    assert usage.stack == 0, f"spills to {usage.stack} bytes of stack at {usage.registers} registers"
    assert usage.shared <= SHARED[capability]
    assert usage.in_flight(capability) >= 4


@pytest.mark.parametrize("one", FIRST, ids=lambda one: one.name)
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_fits_the_device(capability, one):
    fits(one, capability)


@pytest.mark.slow
@pytest.mark.parametrize("one", [*MEASURED, *mixture_shapes()], ids=lambda one: one.name)
@pytest.mark.parametrize("capability", SHARED)
def test_what_is_measured_fits_the_device(capability, one):
    fits(one, capability)
