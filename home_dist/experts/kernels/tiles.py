"""The tile sizes of the Triton kernels, by precision and shape. tests/experts/test_triton_compiles.py compiles each of them.

Chosen from what the compiler reports (registers, spills, shared memory), for compute capability 8.0 and later.
"""

from dataclasses import asdict, dataclass

SUM_ROWS = 64
"""Samples that one program sums up in the mixture's backward."""

_ELEMENTS = 4096
"""Of a mixture's tile (K, R, DT): what fits the registers of four warps beside the gradient's."""


@dataclass(frozen=True)
class Product:
    BM: int
    BN: int
    BK: int
    num_warps: int
    num_stages: int

    def arguments(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True)
class Mixture:
    KP: int
    R: int
    DT: int
    num_warps: int = 4

    def arguments(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True)
class Gate:
    BM: int
    BN: int
    RT: int
    num_warps: int = 4

    def arguments(self) -> dict[str, int]:
        return asdict(self)


PRODUCTS = {
    # (bf16, large)
    (False, False): Product(32, 32, 32, 4, 3),
    (False, True): Product(64, 64, 16, 4, 3),
    (True, False): Product(32, 32, 64, 4, 3),
    (True, True): Product(128, 128, 32, 8, 3),
}

GATE = Gate(32, 32, 32)


def product(bf16: bool, rows: int, columns: int) -> Product:
    return PRODUCTS[bf16, rows >= 128 and columns >= 64]


def mixture(gates: int, width: int) -> Mixture:
    k = power_of_two(gates)
    d = min(power_of_two(width), 128, max(_ELEMENTS // k, 16))
    return Mixture(k, max(1, min(_ELEMENTS // (k * d), 8)), d)


def sums(gates: int, width: int) -> Mixture:
    """Of the backward's sums, which hold more at a time."""
    k = power_of_two(gates)
    d = min(power_of_two(width), 128, max(_ELEMENTS // 2 // k, 16))
    return Mixture(k, max(1, min(_ELEMENTS // 2 // (k * d), 8)), d)


def power_of_two(n: int) -> int:
    """The next one from n on, at least 2: Triton's ranges are powers of two."""
    return max(2, 1 << (n - 1).bit_length())
