"""What one launch of a Triton kernel reads, writes and multiplies, counted from its tiles: no measurement.

Bytes are what all programs ask for, caches left out, without experts' parameters (E, D): a program's few stay near it. Gates
are read and written in sectors of 32 bytes. The least: each operand and result once. Useful products: those whose factors
are real and seen. Serial: steps that a program takes one after the other, each with a product or a sum.
"""

from dataclasses import dataclass

from home_dist.experts.kernels.mixture_tiles import CHUNK, Cut, Sees, cut

SAMPLES = 4096
SECTOR = 8
"""fp32 values."""


@dataclass(frozen=True)
class Cost:
    bytes: float
    least: float
    useful: float
    """Share of products."""
    serial: int


@dataclass(frozen=True)
class Mixture:
    """Sizes of a mixture; stored: bytes of a value of y."""

    sees: Sees
    width: int
    stored: int
    samples: int = SAMPLES

    @property
    def gates(self) -> int:
        return len(self.sees.experts_of)

    @property
    def y(self) -> float:
        return self.stored * self.sees.experts * self.samples * self.width

    @property
    def out(self) -> float:
        return 4 * self.gates * self.samples * self.width

    @property
    def weights(self) -> float:
        """Gates that see."""
        return 4 * self.sees.pairs * self.samples

    @property
    def all_weights(self) -> float:
        return 4 * self.gates * self.sees.experts * self.samples

    @property
    def sums(self) -> float:
        return 2 * 4 * self.sees.experts * self.width

    def least(self, name: str) -> float:
        forward = self.y + self.weights + self.out
        return forward + {"mix": 0.0, "sums": self.all_weights + self.sums, "inner": self.y}[name]


def _sectors(found: Cut, sees: Sees, of_gates: bool) -> int:
    """Of the gates of one sample, read by all tiles."""
    count = 0
    for rows, needed in found.tiles:
        for gate in rows if of_gates else needed:
            experts = {*sees.experts_of[gate]} & {*(needed if of_gates else rows)}
            count += len({e // SECTOR for e in experts})
    return count


def tiled_forward(one: Mixture, columns: int, samples: int, largest: int) -> Cost:
    found = cut(one.sees.experts_of, largest)
    parts = -(-one.width // columns)
    gates = 4 * SECTOR * _sectors(found, one.sees, True) * one.samples * parts
    y = one.stored * found.read * one.samples * one.width
    useful = one.sees.pairs * one.width / (found.products * parts * columns)
    serial = samples * max(-(-len(needed) // CHUNK) for _, needed in found.tiles)
    return Cost(y + gates + one.out, one.least("mix"), useful, serial)


def tiled_backward(one: Mixture, columns: int, samples: int, largest: int, sums: bool) -> Cost:
    found = cut(one.sees.gates_of, largest)
    parts = -(-one.width // columns)
    gates = 4 * SECTOR * _sectors(found, one.sees, False) * one.samples * parts
    total = one.y + 4 * found.read * one.samples * one.width + gates
    if sums:
        full = one.sees.pairs == one.gates * one.sees.experts
        written = gates if full else gates + parts * one.all_weights  # zeros first
        added = (parts + 1) * one.all_weights if parts > 1 else 0
        total += written + added + 2 * -(-one.samples // samples) * one.sums
    else:
        total += one.y
    useful = one.sees.pairs * one.width / (found.products * parts * columns)
    serial = samples * max(-(-len(needed) // CHUNK) for _, needed in found.tiles)
    return Cost(total, one.least("sums" if sums else "inner"), useful, serial)


def small(one: Mixture, name: str, padded: int, rows: int, columns: int, summed: int) -> Cost:
    """Of the kernels for few gates. padded, rows, columns: of a tile; summed: samples of a program with sums."""
    parts, experts = -(-one.width // columns), one.sees.experts
    total = one.y + parts * one.all_weights
    if name == "sums":
        total += experts * one.out + parts * one.all_weights + ((parts + 1) * one.all_weights if parts > 1 else 0)
        total += 2 * -(-one.samples // summed) * one.sums
    else:
        total += one.out + (one.y if name == "inner" else 0)
    useful = one.sees.pairs * one.width / (padded * experts * parts * columns)
    return Cost(total, one.least(name), useful, experts * (summed // rows if name == "sums" else 1))


@dataclass(frozen=True)
class Product:
    """Sizes of a product (M, K) (K, N) for each of `outputs`, and bytes of a value."""

    M: int
    K: int
    N: int
    outputs: int
    a: int
    b: int
    out: int
    a_matrices: int
    """Matrices that all outputs read: the least."""

    def cost(self, BM: int, BN: int, BK: int, extra: int = 0) -> Cost:
        """extra: values per value of the result that the epilogue reads, of the result's size."""
        row_tiles, column_tiles = -(-self.M // BM), -(-self.N // BN)
        left, right, result = self.a * self.M * self.K, self.b * self.K * self.N, self.out * self.M * self.N * (1 + extra)
        total = self.outputs * (left * column_tiles + right * row_tiles + result)
        least = self.a_matrices * left + self.outputs * (right + result)
        inner = -(-self.K // BK)
        useful = self.M * self.K * self.N / (row_tiles * BM * column_tiles * BN * inner * BK)
        return Cost(total, least, useful, inner)


def home(groups: int, tasks: int) -> Sees:
    """HoME's mask of the task layer: two shared experts, two of the group, one of its own; groups of equal size."""
    experts_of = []
    for task in range(tasks):
        group = task * groups // tasks
        experts_of.append((0, 1, 2 + 2 * group, 3 + 2 * group, 2 + 2 * groups + task))
    return Sees(tuple(experts_of), 2 + 2 * groups + tasks)
