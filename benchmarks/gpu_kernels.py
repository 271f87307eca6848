"""What the Triton kernels need of a GPU, compiled ahead of time without one: registers, shared memory, spills.

    python benchmarks/gpu_kernels.py            # every kernel in every configuration for sm_80 and sm_90, some minutes
    python benchmarks/gpu_kernels.py --quick    # the matrix products in bf16 for sm_90, under 50 s; writes nothing

Warps in flight: of a multiprocessor's 64, as many as its registers (65,536) and shared memory allow. No GPU has run them for
these figures, and they are no speeds.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.claims import claim  # noqa: E402
from benchmarks.machine import write_result  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
SHARED = {80: 163 * 1024, 90: 227 * 1024}
"""Bytes of shared memory that a program may have, by compute capability."""
OF_MULTIPROCESSOR = {80: 164 * 1024, 90: 228 * 1024}
REGISTERS, WARPS = 65_536, 64
FP32, BF16, INT = "*fp32", "*bf16", "*i32"
SCALARS = {"factor": "fp32"}
"""Arguments that are neither pointers nor whole numbers."""


@dataclass(frozen=True)
class Configuration:
    name: str
    kernel: Any
    pointers: Mapping[str, str]
    """Argument -> type."""
    tile: Mapping[str, int]
    fixed: Mapping[str, Any]
    """Arguments that are constants, such as strides of 1. All others are integers of which the compiler knows nothing: batches
    and widths that are no multiples of 16."""


@dataclass(frozen=True)
class Usage:
    registers: int
    """Of a thread."""
    stack: int
    """Bytes of a thread that did not fit into registers."""
    shared: int
    """Bytes of a program."""
    warps: int
    """Of a program."""

    def in_flight(self, capability: int) -> int:
        """Warps of a multiprocessor."""
        by_registers = REGISTERS // (32 * self.warps * max(1, self.registers))
        by_memory = OF_MULTIPROCESSOR[capability] // (self.shared + 1024)
        return min(by_registers, by_memory, WARPS // self.warps) * self.warps


def products() -> Iterator[Configuration]:
    from home_dist.experts.kernels import triton_products

    none, bias_relu, moments, relu_backward = (
        getattr(triton_products, n).value for n in ("NONE", "BIAS_RELU", "MOMENTS", "RELU_BACKWARD")
    )
    common = dict.fromkeys(("bias", "weight", "parts"), FP32) | dict.fromkeys(("starts", "a_of", "b_of"), INT)
    for bf16 in (False, True):
        stored = BF16 if bf16 else FP32
        # What stands in memory as which type: inputs and weights are fp32, what was computed is as stored.
        for what, a, b, out, turned, epilogue in [
            ("first layer", FP32, FP32, stored, (False, True), bias_relu),
            ("last layer", stored, FP32, stored, (False, True), moments),
            ("gradient of hidden activations", stored, FP32, stored, (False, False), relu_backward),
            ("gradient of inputs", stored, FP32, FP32, (False, False), none),
            ("gradient of first weights", stored, FP32, FP32, (True, False), none),
            ("gradient of other weights", stored, stored, FP32, (True, False), none),
        ]:
            for large in (False, True):
                pointers = {**common, "a": a, "b": b, "out": out, "below": out}
                flags = {
                    "EPILOGUE": epilogue,
                    "WEIGHTED": True,
                    "BF16": bf16,
                    "A_TRANSPOSED": turned[0],
                    "B_TRANSPOSED": turned[1],
                }
                name = f"product, {what}, {'bf16' if bf16 else 'fp32'}, {'large' if large else 'small'} tiles"
                tile = asdict(triton_products.TILES[bf16, large])
                yield Configuration(name, triton_products.product_kernel, pointers, tile, flags)


def mixtures() -> Iterator[Configuration]:
    from home_dist.experts.kernels import triton_mixture

    for gates, width in [(1, 8), (12, 256), (48, 128)]:
        for stored in (FP32, BF16):
            of = f"{gates} gates, width {width}, {stored[1:]}"
            flags = {"NORM": True, "DROPOUT": True, "gate_e": 1}
            common = {"y": stored, **dict.fromkeys(("scale", "shift", "gates"), FP32)}
            tile, sums_tile = asdict(triton_mixture.tile_of(gates, width)), asdict(triton_mixture.sums_tile_of(gates, width))
            yield Configuration(f"mixture, {of}", triton_mixture.mix_kernel, {**common, "out": FP32}, tile, flags)
            common |= dict.fromkeys(("grad", "mean", "rstd"), FP32)
            sums, rows = {"gate_grad": FP32, "parts": FP32}, {"ROWS": triton_mixture.SUM_ROWS, **flags}
            yield Configuration(
                f"mixture, sums of the backward, {of}", triton_mixture.mix_sums_kernel, common | sums, sums_tile, rows
            )
            inner = {"away": FP32, "along": FP32, "weight": FP32, "out": stored}
            flags = flags | {"OF_BATCH": True, "WEIGHTED": True}
            yield Configuration(f"mixture, backward, {of}", triton_mixture.mix_inner_kernel, common | inner, tile, flags)


def feature_gates() -> Iterator[Configuration]:
    from home_dist.experts.kernels import triton_feature_gate

    for bf16 in (False, True):
        of, flags = "bf16" if bf16 else "fp32", {"INSIDE": True, "BF16": bf16}
        pointers = dict.fromkeys(("x", "low", "up", "share"), FP32)
        tile = asdict(triton_feature_gate.TILE)
        yield Configuration(f"feature gate, {of}", triton_feature_gate.gate_kernel, {**pointers, "out": FP32}, tile, flags)
        pointers |= {"grad": FP32, "x_grad": FP32, "share_grad": FP32, "wide_grad": BF16 if bf16 else FP32}
        yield Configuration(f"feature gate, backward, {of}", triton_feature_gate.gate_backward_kernel, pointers, tile, flags)


def pairs() -> Iterator[Configuration]:
    """Of the bank of chosen experts."""
    from home_dist.experts.kernels import triton_pairs, triton_products

    none, bias_relu, relu_backward = (getattr(triton_products, n).value for n in ("NONE", "BIAS_RELU", "RELU_BACKWARD"))
    for bf16 in (False, True):
        stored, of = (BF16, "bf16") if bf16 else (FP32, "fp32")
        for what, a, out, gathered, turned, epilogue in [
            ("first layer", FP32, stored, True, True, bias_relu),
            ("last layer", stored, stored, False, True, none),
            ("gradient of the last hidden layer", FP32, stored, False, False, relu_backward),
            ("gradient of other hidden layers", stored, stored, False, False, relu_backward),
            ("gradient of inputs", stored, FP32, False, False, none),
        ]:
            pointers = {"a": a, "w": FP32, "out": out, "bias": FP32, **dict.fromkeys(("rows_of", "offsets"), INT)}
            pointers |= dict.fromkeys(("tile_expert", "tile_row"), INT)
            flags = {"GATHERED": gathered, "W_TRANSPOSED": turned, "EPILOGUE": epilogue, "BF16": bf16}
            name = f"product of pairs, {what}, {of}"
            yield Configuration(name, triton_pairs.pairs_product_kernel, pointers, triton_pairs.TILE, flags)
        for what, down, below, gathered in [("first", stored, FP32, True), ("last", FP32, stored, False)]:
            pointers = {"down": down, "below": below, "out": FP32, "sums": FP32, "rows_of": INT, "offsets": INT}
            flags = {"GATHERED": gathered, "SUMS": True, "BF16": bf16}
            name = f"gradient of {what} weights of pairs, {of}"
            yield Configuration(name, triton_pairs.pairs_weight_kernel, pointers, triton_pairs.TILE, flags)
    of_samples = {"parts": FP32, "pair_of": INT, "is_first": INT, "out": FP32}
    block = {"BD": 128}
    runs = {"values": FP32, "factors": FP32, "order": INT, "starts": INT, "out": FP32}
    mixed = {"y": FP32, "gates": FP32, "pair_of": INT, "out": FP32}
    dots = {"grad": FP32, "y": FP32, "pair_of": INT, "out": FP32}
    yield Configuration("mixture of pairs", triton_pairs.mix_kernel, mixed, block, {})
    yield Configuration("mixture of pairs, gradient of gates", triton_pairs.gate_grad_kernel, dots, block, {})
    yield Configuration("mixture of pairs, gradient of outputs", triton_pairs.sum_runs_kernel, runs, block, {})
    yield Configuration("sum of pairs by sample", triton_pairs.sum_samples_kernel, of_samples, {"BD": 512}, {})


def compiled(one: Configuration, capability: int) -> Usage:
    """A second or two. Triton must not be interpreting (TRITON_INTERPRET)."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    tile = dict(one.tile)
    options = {k: tile.pop(k) for k in ("num_warps", "num_stages") if k in tile}
    fixed, names = {**one.fixed, **tile}, one.kernel.arg_names
    unknown = {*fixed, *one.pointers} - {*names}
    if unknown:
        raise ValueError(f"{one.name}: no arguments of the kernel: {', '.join(sorted(unknown))}")
    signature = {n: "constexpr" if n in fixed else one.pointers.get(n, SCALARS.get(n, "i32")) for n in names}
    constants = {(names.index(n),): value for n, value in fixed.items()}
    aligned = {(names.index(n),): [["tt.divisibility", 16]] for n in one.pointers}
    source = ASTSource(one.kernel, signature, constexprs=constants, attrs=aligned)
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder, "kernel.cubin")
        binary.write_bytes(built.asm["cubin"])
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        told = subprocess.run(
            [str(tool), "--dump-resource-usage", str(binary)], capture_output=True, text=True, check=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", told)
    if found is None:
        raise ValueError(f"cuobjdump tells nothing of registers: {told}")
    return Usage(int(found[1]), int(found[2]), built.metadata.shared, built.metadata.num_warps)


def table(found: dict[str, dict[str, Any]]) -> str:
    lines = ["| kernel | GPU | registers of a thread | bytes spilled | shared memory, KB | warps in flight, of 64 |"]
    lines.append("|---|---|---|---|---|---|")
    for name, by in found.items():
        for gpu, one in by.items():
            shared = f"{one['shared'] / 1024:.1f}"
            lines.append(f"| {name} | {gpu} | {one['registers']} | {one['stack']} | {shared} | {one['in_flight']} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the matrix products in bf16 for sm_90; writes nothing")
    options = parser.parse_args()
    everything = [*products(), *mixtures(), *feature_gates(), *pairs()]
    if options.quick:
        everything = [c for c in everything if c.name.startswith("product") and "bf16" in c.name]
    found: dict[str, dict[str, Any]] = {}
    for one in everything:
        for capability in (90,) if options.quick else SHARED:
            usage = compiled(one, capability)
            found.setdefault(one.name, {})[f"sm_{capability}"] = {
                "registers": usage.registers,
                "stack": usage.stack,
                "shared": usage.shared,
                "in_flight": usage.in_flight(capability),
                "shared_allowed": SHARED[capability],
            }
            print(f"\r{len(found)} of {len(everything)} kernels", end="", flush=True)
    print()
    text = table(found)
    print(text)
    if not options.quick:
        write_result(RESULTS / "gpu_kernels.json", found)
        (RESULTS / "gpu_kernels.md").write_text(text + "\n")
    each = [one for by in found.values() for one in by.values()]
    print(claim("bytes of a thread that did not fit into registers, at most", max(o["stack"] for o in each), 0, True, form="d"))
    print(
        claim(
            "shared memory over what a program may have, at most", max(o["shared"] / o["shared_allowed"] for o in each), 1, True
        )
    )


if __name__ == "__main__":
    main()
