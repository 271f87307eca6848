"""Tiles of a mixture under a mask: which gates, or which experts, one program of a GPU computes, and what it reads for them.

A row of tiles is a gate (or an expert), and it needs the experts that the gate may see (or the gates that may see the expert).
Rows that need the same stand in one tile, which reads them once. Each of 60 tasks of HoME, for example, sees 5 of 72 experts,
and the 12 of a group see 16 together: five tiles of 12 gates and 16 experts, instead of all gates times all experts.
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import torch

CHUNK = 16
"""A tile reads this many rows of its other side at a time: the inner width of a matrix product, which Triton wants."""
_HEIGHTS = (8, 16, 32, 64)
"""Rows of a tile."""
_PRODUCTS_PER_VALUE = 20
"""Products in the time that one value takes to be read, fp32 on CUDA cores: 19.5 TFLOP/s and 2 TB/s of an A100. Others have
more."""


@dataclass(frozen=True, eq=False)
class Sees:
    """A boolean mask (K, E), known to the host: gate k may have a weight for expert e. Compared by identity: keep it."""

    experts_of: tuple[tuple[int, ...], ...]
    """The experts of each gate, ascending."""
    experts: int

    @staticmethod
    def of(mask: torch.Tensor) -> "Sees":
        """mask: (K, E). Waits for its device."""
        return Sees(tuple(tuple(e for e, seen in enumerate(row) if seen) for row in mask.tolist()), mask.shape[1])

    @staticmethod
    @functools.cache
    def all(gates: int, experts: int) -> "Sees":
        return Sees((tuple(range(experts)),) * gates, experts)

    @functools.cached_property
    def pairs(self) -> int:
        return sum(map(len, self.experts_of))

    @functools.cached_property
    def gates_of(self) -> tuple[tuple[int, ...], ...]:
        """The gates of each expert, ascending."""
        found: list[list[int]] = [[] for _ in range(self.experts)]
        for gate, experts in enumerate(self.experts_of):
            for expert in experts:
                found[expert].append(gate)
        return tuple(map(tuple, found))


class Cut(NamedTuple):
    """Tiles on the host. Rows that need nothing stand in a tile of their own kind: their results are zeros."""

    height: int
    """Rows that a tile has room for: a power of two."""
    tiles: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    """Of each tile, its rows, and what any of them needs."""

    @property
    def read(self) -> int:
        """Rows of the other side that all tiles read."""
        return sum(len(needed) for _, needed in self.tiles)

    @property
    def chunks(self) -> int:
        return sum(-(-len(needed) // CHUNK) for _, needed in self.tiles)

    @property
    def products(self) -> int:
        """Per value of a row, with what fills up."""
        return self.chunks * CHUNK * self.height


class Tiles(NamedTuple):
    """A Cut on a device. All tensors are int32."""

    height: int
    number: int
    rows: torch.Tensor
    """(tiles, height): -1 for none."""
    starts: torch.Tensor
    """(tiles + 1,): the first chunk of each tile."""
    needed: torch.Tensor
    """(chunks, CHUNK): rows of the other side, -1 for none."""
    bits: torch.Tensor
    """(chunks, height): bit j tells whether the row needs entry j of the chunk."""


def cut(needs: tuple[tuple[int, ...], ...], largest: int = _HEIGHTS[-1]) -> Cut:
    """Cuts rows into the tiles that are cheapest to read and to multiply. needs: of each row, ascending; largest: rows of a
    tile, at most."""
    last = max((n for row in needs for n in row), default=0)
    bits = [sum(1 << (last - n) for n in row) for row in needs]
    order = sorted(range(len(needs)), key=lambda row: -bits[row])  # equal needs, and needs that begin alike, are neighbours
    most = max(min(power_of_two(len(needs)), largest), _HEIGHTS[0])
    options = [_cheapest(order, needs, bits, height) for height in _HEIGHTS if height <= most]
    return min(options, key=lambda found: found[0])[1]


def _cheapest(order: list[int], needs: tuple[tuple[int, ...], ...], bits: list[int], height: int) -> tuple[float, Cut]:
    """Cuts `order` into runs of at most `height` rows, by the least sum of the runs' costs. bits: a row's needs, as one."""
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, len(order) + 1):
        union = 0
        options = []
        for begin in range(end - 1, max(end - height, 0) - 1, -1):
            union |= bits[order[begin]]
            reads = union.bit_count()
            padded = -(-reads // CHUNK) * CHUNK
            cost = reads + (end - begin) + height * padded / _PRODUCTS_PER_VALUE
            options.append((best[begin][0] + cost, begin))
        best.append(min(options))
    tiles, end = [], len(order)
    while end:
        begin = best[end][1]
        rows = tuple(order[begin:end])
        tiles.append((rows, tuple(sorted({n for row in rows for n in needs[row]}))))
        end = begin
    return best[-1][0], Cut(height, tuple(reversed(tiles)))


@functools.lru_cache(maxsize=256)
def gate_tiles(sees: Sees, largest: int, device: torch.device) -> Tiles:
    """Tiles of gates, which read experts: for the mixture."""
    return on(cut(sees.experts_of, largest), sees.experts_of, device)


@functools.lru_cache(maxsize=256)
def expert_tiles(sees: Sees, largest: int, device: torch.device) -> Tiles:
    """Tiles of experts, which read the gradients of gates' mixtures: for the backward."""
    return on(cut(sees.gates_of, largest), sees.gates_of, device)


def on(found: Cut, needs: tuple[tuple[int, ...], ...], device: torch.device) -> Tiles:
    rows, starts, needed, bits = [], [0], [], []
    sets = [frozenset(row) for row in needs]
    for members, wants in found.tiles:
        rows.append([*members, *[-1] * (found.height - len(members))])
        for first in range(0, len(wants), CHUNK):
            chunk = wants[first : first + CHUNK]
            needed.append([*chunk, *[-1] * (CHUNK - len(chunk))])
            words = [sum(1 << j for j, n in enumerate(chunk) if n in sets[row]) for row in members]
            bits.append([*words, *[0] * (found.height - len(words))])
        starts.append(len(needed))

    def table(values: list[list[int]] | list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32).to(device)

    none = [[-1] * CHUNK], [[0] * found.height]  # a table is never empty
    return Tiles(found.height, len(rows), table(rows), table(starts), table(needed or none[0]), table(bits or none[1]))


def power_of_two(n: int) -> int:
    """The next power of two from n on, at least 2: Triton's ranges are powers of two."""
    return max(2, 1 << (n - 1).bit_length())
