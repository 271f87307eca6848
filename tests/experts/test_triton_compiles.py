"""Every Triton kernel, with every tile size, compiled ahead of time for two GPUs: no register spills, and shared memory
within the device's. No GPU is needed; a configuration takes a second or two."""

import os

import pytest

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels do not compile", allow_module_level=True)

from benchmarks.gpu_kernels import SHARED, compiled, feature_gates, mixtures, pairs, products

CAPABILITIES = [pytest.param(80, marks=pytest.mark.slow), 90]
ALL = [*products(), *mixtures(), *feature_gates(), *pairs()]


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_fits_the_device(capability, one):
    usage = compiled(one, capability)
    assert usage.stack == 0, f"spills to {usage.stack} bytes of stack at {usage.registers} registers"
    assert usage.shared <= SHARED[capability]
    assert usage.in_flight(capability) >= 4
