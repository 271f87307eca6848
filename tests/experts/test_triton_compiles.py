"""Every kernel, in every configuration of tiles.py, compiled ahead of time for two GPUs: no register spills, and shared memory
within the device's. No GPU is needed; a configuration takes a second or two."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels do not compile", allow_module_level=True)

from home_dist.experts.kernels import tiles, triton_gate, triton_mixture, triton_products  # noqa: E402

SHARED = {80: 163 * 1024, 90: 227 * 1024}
"""Bytes of shared memory that a program may have, by compute capability."""
CAPABILITIES = [pytest.param(80, marks=pytest.mark.slow), 90]
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
FP32, BF16, INT = "*fp32", "*bf16", "*i32"


def compile_and_check(kernel: Any, capability: int, pointers: dict[str, str], tile: dict[str, int], path: Path, **fixed: Any):
    """pointers: argument -> type; fixed: arguments that are constants, such as strides of 1. All others are integers of which
    the compiler knows nothing: batches and widths that are no multiples of 16."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    options = {k: tile.pop(k) for k in ("num_warps", "num_stages") if k in tile}
    fixed = {**fixed, **tile}
    names = kernel.arg_names
    signature = {n: "constexpr" if n in fixed else pointers.get(n, "i32") for n in names}
    assert not {*fixed, *pointers} - {*names}
    constants = {(names.index(n),): value for n, value in fixed.items()}
    aligned = {(names.index(n),): [["tt.divisibility", 16]] for n in pointers}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert compiled.metadata.shared <= SHARED[capability]
    binary = path / "kernel.cubin"
    binary.write_bytes(compiled.asm["cubin"])
    command = [str(CUOBJDUMP), "--dump-resource-usage", str(binary)]
    usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = (int(n) for n in re.search(r"REG:(\d+) STACK:(\d+)", usage).groups())
    assert stack == 0, f"spills to {stack} bytes of stack at {registers} registers"


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_products(capability, bf16, large, tmp_path):
    stored = BF16 if bf16 else FP32
    none, bias_relu, moments, relu_backward = (
        getattr(triton_products, n).value for n in ("NONE", "BIAS_RELU", "MOMENTS", "RELU_BACKWARD")
    )
    common = dict.fromkeys(("bias", "weight", "parts"), FP32) | dict.fromkeys(("starts", "a_of", "b_of"), INT)
    # What stands in memory as which type: inputs and weights are fp32, what was computed is as stored.
    for a, b, out, turned, epilogue in [
        (FP32, FP32, stored, (False, True), bias_relu),  # first layer
        (stored, FP32, stored, (False, True), moments),  # last layer
        (stored, FP32, stored, (False, False), relu_backward),  # gradient of hidden activations
        (stored, FP32, FP32, (False, False), none),  # of inputs
        (stored, FP32, FP32, (True, False), none),  # of first weights
        (stored, stored, FP32, (True, False), none),  # of other weights
    ]:
        pointers = {**common, "a": a, "b": b, "out": out, "below": out}
        flags = {"EPILOGUE": epilogue, "WEIGHTED": True, "BF16": bf16, "A_TURNED": turned[0], "B_TURNED": turned[1]}
        tile = tiles.PRODUCTS[bf16, large].arguments()
        compile_and_check(triton_products.grouped_product, capability, pointers, tile, tmp_path, **flags)


@pytest.mark.parametrize(("gates", "width"), [(1, 8), (12, 256), (48, 128)])
@pytest.mark.parametrize("stored", [FP32, BF16])
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_mixture(capability, stored, gates, width, tmp_path):
    flags = {"NORM": True, "gate_e": 1}
    common = {"y": stored, **dict.fromkeys(("scale", "shift", "gates"), FP32)}
    tile = tiles.mixture(gates, width).arguments()
    compile_and_check(triton_mixture.mix, capability, {**common, "out": FP32}, tile, tmp_path, **flags)
    common |= dict.fromkeys(("grad", "mean", "rstd"), FP32)
    sums, tile = {"gate_grad": FP32, "parts": FP32}, tiles.sums(gates, width).arguments()
    compile_and_check(triton_mixture.mix_sums, capability, common | sums, tile, tmp_path, ROWS=tiles.SUM_ROWS, **flags)
    inner, tile = {"away": FP32, "along": FP32, "weight": FP32, "out": stored}, tiles.mixture(gates, width).arguments()
    flags |= {"OF_BATCH": True, "WEIGHTED": True}
    compile_and_check(triton_mixture.mix_inner, capability, common | inner, tile, tmp_path, **flags)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_feature_gate(capability, bf16, tmp_path):
    pointers = dict.fromkeys(("x", "low", "up", "share"), FP32)
    flags = {"INSIDE": True, "BF16": bf16}
    tile = tiles.GATE.arguments()
    compile_and_check(triton_gate.feature_gate, capability, {**pointers, "out": FP32}, tile, tmp_path, **flags)
    pointers |= {"grad": FP32, "x_grad": FP32, "share_grad": FP32, "wide_grad": BF16 if bf16 else FP32}
    tile = tiles.GATE.arguments()
    compile_and_check(triton_gate.feature_gate_backward, capability, pointers, tile, tmp_path, **flags)
