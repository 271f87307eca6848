"""Initial values of embedding tables: a function of (seed, table, row, column) alone.

So they are the same however a table is cut into shards, on any number of ranks and any kind of device, each rank draws just its
own shard, and a row's can be had again without the others'. They are normal, in 65,536 steps: SplitMix64 (Steele, Lea & Flood,
OOPSLA 2014, figure 17) hashes a counter of four columns to 64 bits, whose four pieces of 16 bits each choose a quantile of the
normal distribution. Integers and one look-up round nothing, so that devices cannot differ.
"""

import ctypes
import functools
import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import NormalDist

import torch

from home_dist.native_library import library_if_possible

_GOLDEN, _MULTIPLIERS = 0x9E3779B97F4A7C15, (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = (30, 27, 31)
_PIECES = 4  # values of one hashed word
_STEPS = 1 << 16
_BLOCK = {"cpu": 1 << 15, "cuda": 1 << 24}  # words at a time: on a CPU, as its cache holds
_NATIVE_VALUES = 1 << 20  # that a thread fills at a time
_NATIVE = {torch.float32: "fill", torch.float16: "fill_half"}
"""Functions of the compiled library, by the type of the table."""
_SOURCE = Path(__file__).parent / "native" / "initial.cpp"


class Drawn:
    """The initial values of one table."""

    def __init__(self, table: str, dim: int, std: float, seed: int):
        """dim: width of the whole table."""
        self.std, self._words = std, -(-dim // _PIECES)
        self._key = int.from_bytes(hashlib.sha256(f"{seed}/{table}".encode()).digest()[:8], "little")

    def rows(self, rows: torch.Tensor, first_column: int, columns: int) -> torch.Tensor:
        """(n, columns) float32, on the device of `rows`. rows: (n,) of the whole table."""
        first, end = first_column // _PIECES, -(-(first_column + columns) // _PIECES)
        width = (end - first) * _PIECES
        words = rows.long().unsqueeze(1) * self._words + torch.arange(first, end, device=rows.device)
        pieces = _hashed(words, self._key).view(torch.int16).int() + _STEPS // 2
        values = _quantiles(self.std, str(rows.device)).index_select(0, pieces.flatten()).view(len(rows), width)
        skipped = first_column - first * _PIECES
        return values[:, skipped : skipped + columns]

    def fill(self, out: torch.Tensor, first_row: int, first_column: int) -> None:
        """Fills a shard (n, columns), whose first entry is at (first_row, first_column) of the table."""
        library = _native() if out.device.type == "cpu" and out.dtype in _NATIVE and out.stride(1) == 1 else None
        if library is not None:
            self._fill_natively(library, out, first_row, first_column)
            return
        block = max(1, _BLOCK.get(out.device.type, _BLOCK["cuda"]) // self._words)
        for first in range(0, len(out), block):
            part = out[first : first + block]
            rows = torch.arange(first_row + first, first_row + first + len(part), device=out.device)
            part.copy_(self.rows(rows, first_column, out.shape[1]))

    def _fill_natively(self, library: ctypes.CDLL, out: torch.Tensor, first_row: int, first_column: int) -> None:
        quantiles, filled = _quantiles(self.std, "cpu").to(out.dtype), getattr(library, _NATIVE[out.dtype])
        count, columns = out.shape
        block = max(1, _NATIVE_VALUES // max(1, columns))

        def fill(first: int) -> None:
            part = out[first : first + block]
            sizes = (first_row + first, len(part), first_column, columns, out.stride(0), self._words)
            numbers = [ctypes.c_int64(n) for n in sizes]
            filled(
                ctypes.c_void_p(part.data_ptr()), *numbers, ctypes.c_uint64(self._key), ctypes.c_void_p(quantiles.data_ptr())
            )

        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(fill, range(0, count, block)))


def drawn_later(_: torch.Tensor) -> None:
    """Keeps TorchRec from drawing values of its own, which `initialise` or a checkpoint would replace."""


def _native() -> ctypes.CDLL | None:
    """The compiled library; None without a compiler. It takes a tenth of the time of torch's operators."""
    return library_if_possible(_SOURCE)


@functools.lru_cache(4)
def _quantiles(std: float, device: str) -> torch.Tensor:
    """(65536,) means of equal parts of the normal distribution, scaled to its deviation."""
    normal = NormalDist()
    middle = torch.tensor([normal.inv_cdf((i + 0.5) / _STEPS) for i in range(_STEPS)], dtype=torch.float64)
    return (middle * (std / middle.square().mean().sqrt())).float().to(device)


def _hashed(words: torch.Tensor, key: int) -> torch.Tensor:
    """SplitMix64 of a stream's words, in place. words: int64, whose products wrap around; they are shifted as unsigned."""
    words.mul_(_signed(_GOLDEN)).add_(_signed(key))
    shifted = torch.empty_like(words)
    for shift, multiplier in zip(_SHIFTS, (*_MULTIPLIERS, 1), strict=True):
        torch.bitwise_right_shift(words, shift, out=shifted)
        words.bitwise_xor_(shifted.bitwise_and_((1 << (64 - shift)) - 1))
        if multiplier != 1:
            words.mul_(_signed(multiplier))
    return words


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number
