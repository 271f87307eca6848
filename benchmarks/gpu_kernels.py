"""What the Triton kernels need of a GPU, compiled ahead of time without one: registers, shared memory, spills.

    python benchmarks/gpu_kernels.py            # every kernel in every configuration for sm_80, sm_90 and sm_100, 20 minutes
    python benchmarks/gpu_kernels.py --quick    # the matrix products in bf16 for sm_90, a minute or two; writes nothing

Bytes, products and serial steps are counted (gpu_costs.py) for 4,096 samples, and for 72 experts of 512-512-128.
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
from benchmarks.gpu_costs import SAMPLES, SECTOR, Cost, Mixture, Product, home, small, tiled_backward, tiled_forward  # noqa: E402
from benchmarks.machine import write_result  # noqa: E402
from home_dist.experts.kernels.mixture_tiles import Sees, cut  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
SHARED = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
"""Bytes of shared memory that a program may have, by compute capability."""
OF_MULTIPROCESSOR = {80: 164 * 1024, 90: 228 * 1024, 100: 228 * 1024}
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
    cost: Cost | None = None


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
        # Sizes as (M, K, N): 512 features, 512 hidden units, width 128; 72 experts of 66 inputs.
        for what, a, b, out, turned, epilogue, (rows, inner, columns), matrices in [
            ("first layer", FP32, FP32, stored, (False, True), bias_relu, (SAMPLES, 512, 512), 66),
            ("last layer", stored, FP32, stored, (False, True), moments, (SAMPLES, 512, 128), 72),
            ("gradient of hidden activations", stored, FP32, stored, (False, False), relu_backward, (SAMPLES, 128, 512), 72),
            ("gradient of inputs", stored, FP32, FP32, (False, False), none, (SAMPLES, 512, 512), 72),
            ("gradient of first weights", stored, FP32, FP32, (True, False), none, (512, SAMPLES, 512), 72),
            ("gradient of other weights", stored, stored, FP32, (True, False), none, (128, SAMPLES, 512), 72),
        ]:
            for large, number in ((size, n) for size in (False, True) for n in range(len(triton_products.TILES[bf16, size]))):
                pointers = {**common, "a": a, "b": b, "out": out, "below": out}
                flags = {
                    "EPILOGUE": epilogue,
                    "WEIGHTED": True,
                    "BF16": bf16,
                    "A_TRANSPOSED": turned[0],
                    "B_TRANSPOSED": turned[1],
                }
                size = f"{'large' if large else 'small'} tiles{_candidate(number)}"
                name = f"product, {what}, {'bf16' if bf16 else 'fp32'}, {size}"
                tile = asdict(triton_products.TILES[bf16, large][number])
                of = Product(rows, inner, columns, 72, *(4 if t == FP32 else 2 for t in (a, b, out)), matrices)
                cost = of.cost(tile["BM"], tile["BN"], tile["BK"], extra=int(epilogue == relu_backward))
                yield Configuration(name, triton_products.product_kernel, pointers, tile, flags, cost)


def mixtures() -> Iterator[Configuration]:
    """Few gates: one kernel each. Many: the candidates of which a device chooses."""
    from home_dist.experts.kernels.triton_mixture import is_small

    for gates, experts, width in [(1, 8, 8), (2, 8, 256), (12, 8, 256), (60, 72, 128)]:
        for stored in (FP32, BF16):
            if is_small(gates, experts):
                yield from few_gates(Sees.all(gates, experts), width, stored, f"{gates} gates, {experts} experts")
            else:
                yield from many_gates(Sees.all(gates, experts), width, stored, f"{gates} gates, {experts} experts")
    for stored in (FP32, BF16):
        yield from many_gates(home(5, 60), width, stored, "60 gates, 72 experts, 5 seen by each gate")


def few_gates(sees: Sees, width: int, stored: str, what: str) -> Iterator[Configuration]:
    from home_dist.experts.kernels import triton_mixture

    gates = len(sees.experts_of)
    of, size = f"{what}, width {width}, {stored[1:]}", Mixture(sees, width, 4 if stored == FP32 else 2)
    flags = {"NORM": True, "DROPOUT": True, "gate_e": 1}
    common = {"y": stored, **dict.fromkeys(("scale", "shift", "gates"), FP32)}
    tile, sums_tile = asdict(triton_mixture.tile_of(gates, width)), asdict(triton_mixture.sums_tile_of(gates, width))

    def cost(name: str, by: Mapping[str, int]) -> Cost:
        return small(size, name, by["KP"], by["R"], by["DT"], triton_mixture.SUM_ROWS)

    yield Configuration(f"mixture, {of}", triton_mixture.mix_kernel, {**common, "out": FP32}, tile, flags, cost("mix", tile))
    common |= dict.fromkeys(("grad", "mean", "rstd"), FP32)
    sums, rows = {"gate_grad": FP32, "parts": FP32}, {"ROWS": triton_mixture.SUM_ROWS, **flags}
    name = f"mixture, sums of the backward, {of}"
    yield Configuration(name, triton_mixture.mix_sums_kernel, common | sums, sums_tile, rows, cost("sums", sums_tile))
    inner = {"away": FP32, "along": FP32, "weight": FP32, "out": stored}
    flags = flags | {"OF_BATCH": True, "WEIGHTED": True}
    name = f"mixture, backward, {of}"
    yield Configuration(name, triton_mixture.mix_inner_kernel, common | inner, tile, flags, cost("inner", tile))


def many_gates(sees: Sees, width: int, stored: str, what: str) -> Iterator[Configuration]:
    from home_dist.experts.kernels import triton_tiled_mixture as tiled

    of, size = f"{what}, width {width}, {stored[1:]}", Mixture(sees, width, 4 if stored == FP32 else 2)
    found = cut(sees.experts_of, max(tiled.FORWARD_TILES))
    samples = tiled.samples_of(SAMPLES, len(found.tiles))
    for number, tile in enumerate(tiled.forward_candidates(found.height, width)):
        cost = tiled_forward(size, tile.DT, samples, max(tiled.FORWARD_TILES))
        yield tiled_mixture(f"mixture, {of}{_candidate(number)}", stored, found.height, samples, asdict(tile), cost)
    columns, largest = tiled.columns_of(width), tiled.height_of(width)
    found = cut(sees.gates_of, largest)
    for number, backward in enumerate(tiled.backward_candidates(found.height)):
        tile_of = {"DT": columns, **asdict(backward)}
        for sums, part in ((True, "mixture, sums of the backward"), (False, "mixture, backward")):
            samples = tiled.samples_of(SAMPLES, len(found.tiles), tiled.SUMMED if sums else tiled.UNSUMMED)
            cost = tiled_backward(size, columns, samples, largest, sums)
            name = f"{part}, {of}{_candidate(number)}"
            yield tiled_mixture_backward(name, stored, found.height, samples, tile_of, sums, not sums, cost)


TABLES = dict.fromkeys(("rows", "starts", "needed", "bits"), INT)


def tiled_mixture(
    name: str, stored: str, height: int, samples: int, tile: Mapping[str, int], cost: Cost | None = None
) -> Configuration:
    from home_dist.experts.kernels.triton_tiled_mixture import mix_tiles_kernel

    pointers = {"y": stored, **dict.fromkeys(("scale", "shift", "gates", "out"), FP32), **TABLES}
    flags = {"NORM": True, "DROPOUT": True, "gate_e": 1, "HEIGHT": height, "SAMPLES": samples}
    return Configuration(name, mix_tiles_kernel, pointers, tile, flags, cost)


def tiled_mixture_backward(
    name: str, stored: str, height: int, samples: int, tile: Mapping[str, int], sums: bool, out: bool, cost: Cost | None = None
) -> Configuration:
    """sums and out: one pass for both, where no statistics of the batch stand between."""
    from home_dist.experts.kernels.triton_tiled_mixture import mix_tiles_backward_kernel

    read = ("grad", "scale", "shift", "mean", "rstd", "away", "along", "weight", "gates", "gate_grad", "parts")
    pointers = {"y": stored, "out": stored, **dict.fromkeys(read, FP32), **TABLES}
    flags = {"NORM": True, "DROPOUT": True, "gate_e": 1, "HEIGHT": height, "SAMPLES": samples}
    flags |= {"SUMS": sums, "OUT": out, "OF_BATCH": not sums, "WEIGHTED": not sums}
    return Configuration(name, mix_tiles_backward_kernel, pointers, tile, flags, cost)


def mixture_shapes() -> Iterator[Configuration]:
    """Every height and width of the tiles of many gates, with every candidate."""
    from home_dist.experts.kernels import triton_tiled_mixture as tiled

    for width in (16, 32, 64, 128):
        for height in tiled.FORWARD_TILES:
            for tile in tiled.forward_candidates(height, width):
                yield tiled_mixture(f"mixture of {height} gates, {tile}", FP32, height, 8, asdict(tile))
        for height in (h for h in tiled.FORWARD_TILES if h <= tiled.height_of(width)):
            for backward in tiled.backward_candidates(height):
                for sums, out in ((True, False), (False, True), (True, True)):
                    name = f"backward of {height} experts, width {width}, {backward}, {sums=}, {out=}"
                    tile_of = {"DT": tiled.columns_of(width), **asdict(backward)}
                    yield tiled_mixture_backward(name, FP32, height, 32, tile_of, sums, out)


def _candidate(number: int) -> str:
    return f", candidate {number + 1}" if number else ""


def feature_gates() -> Iterator[Configuration]:
    from home_dist.experts.kernels import triton_feature_gate

    for bf16 in (False, True):
        of, flags = "bf16" if bf16 else "fp32", {"INSIDE": True, "BF16": bf16}
        pointers = dict.fromkeys(("x", "low", "up", "share"), FP32)
        tile = asdict(triton_feature_gate.TILE)
        yield Configuration(f"feature gate, {of}", triton_feature_gate.gate_kernel, {**pointers, "out": FP32}, tile, flags)
        pointers |= {"grad": FP32, "x_grad": FP32, "share_grad": FP32, "wide_grad": BF16 if bf16 else FP32}
        yield Configuration(f"feature gate, backward, {of}", triton_feature_gate.gate_backward_kernel, pointers, tile, flags)


def gate_weights() -> Iterator[Configuration]:
    from home_dist.experts.kernels import triton_gate_weights

    # Gates, scores of a gate and of its self gate, experts: HoME's task layer, MMoE, SMES.
    for gates, main, own, experts in [(60, 5, 1, 72), (12, 8, 0, 8), (60, 512, 512, 512)]:
        tile = asdict(triton_gate_weights.tile_of(max(main, own)))
        of = f"{gates} gates, {main + own} scores each, {experts} experts"
        tables = dict.fromkeys(("experts_of", "lone"), INT)
        scores, weights = (4 * gates * SAMPLES * n for n in (main + own, experts))
        seen = 4 * gates * SAMPLES * min(-(-(main + own) // SECTOR) * SECTOR + SECTOR, experts)
        wide = triton_gate_weights.columns_of(experts)
        pointers = {"scores": FP32, "slots": INT, "out": FP32, **tables}
        kernel, flags = triton_gate_weights.gate_weights_kernel, {"OWN": own > 0}
        cost = Cost(scores + weights, scores + weights, 1.0, -(-experts // wide))
        yield Configuration(f"gates' weights, {of}", kernel, pointers, {**tile, "ET": wide}, flags, cost)
        pointers = {"grad": FP32, "scores": FP32, "out": FP32, **tables}
        kernel = triton_gate_weights.gate_weights_backward_kernel
        least = 2 * scores + 4 * gates * SAMPLES * min(main + own, experts)
        cost = Cost(2 * scores + seen, least, 1.0, 1)
        yield Configuration(f"gates' weights, backward, {of}", kernel, pointers, tile, flags, cost)


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
            yield Configuration(name, triton_pairs.pairs_weight_kernel, pointers, triton_pairs.weight_tile(bf16), flags)
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
    options = {k: tile.pop(k) for k in ("num_warps", "num_stages", "maxnreg") if k in tile}
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
    """One line per kernel; figures of the compiler by GPU, in the order of SHARED."""
    lines = [
        f"| kernel | registers of a thread: {', '.join(f'sm_{c}' for c in SHARED)} | bytes spilled | shared memory, KB "
        "| warps in flight, of 64 | MB moved | of the least possible | useful share of products | serial steps |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in found.items():
        by, cost = one["gpus"].values(), one["cost"]

        def each(key: str, by: Any = by) -> str:
            return " ".join(str(gpu[key]) for gpu in by)

        shared = " ".join(f"{gpu['shared'] / 1024:.0f}" for gpu in by)
        moved = ["", "", "", ""]
        if cost:
            moved = [f"{cost['bytes'] / 1e6:,.0f}", f"{cost['bytes'] / cost['least']:.2f}", f"{cost['useful']:.0%}"]
            moved.append(f"{cost['serial']:,}")
        cells = [name, each("registers"), each("stack"), shared, each("in_flight"), *moved]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the matrix products in bf16 for sm_90; writes nothing")
    options = parser.parse_args()
    everything = [*products(), *mixtures(), *gate_weights(), *feature_gates(), *pairs()]
    if options.quick:
        everything = [c for c in everything if c.name.startswith("product") and "bf16" in c.name]
    found: dict[str, dict[str, Any]] = {}
    for one in everything:
        gpus = {}
        for capability in (90,) if options.quick else SHARED:
            usage = compiled(one, capability)
            gpus[f"sm_{capability}"] = {
                "registers": usage.registers,
                "stack": usage.stack,
                "shared": usage.shared,
                "in_flight": usage.in_flight(capability),
                "shared_allowed": SHARED[capability],
            }
        found[one.name] = {"gpus": gpus, "cost": None if one.cost is None else asdict(one.cost)}
        print(f"\r{len(found)} of {len(everything)} kernels", end="", flush=True)
    print()
    text = table(found)
    print(text)
    if not options.quick:
        write_result(RESULTS / "gpu_kernels.json", found)
        (RESULTS / "gpu_kernels.md").write_text(text + "\n")
    each = [one for kernel in found.values() for one in kernel["gpus"].values()]
    shared = max(o["shared"] / o["shared_allowed"] for o in each)
    print(claim("bytes of a thread that did not fit into registers, at most", max(o["stack"] for o in each), 0, True, form="d"))
    print(claim("shared memory over what a program may have, at most", shared, 1, True))


if __name__ == "__main__":
    main()
