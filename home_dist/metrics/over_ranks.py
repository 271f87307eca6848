"""Rows of all ranks, of which each rank holds a part: sums over the parts, and exchanges that give each rank another part.

Sums add the ranks' figures in the order of ranks, so that all ranks hold the same bits, and one rank those of its rows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from home_dist.errors import DataError
from home_dist.metrics.samples import Floats

Result = TypeVar("Result")

_PIECE = 1 << 22
"""Rows of all receivers that a rank sends at a time: 32 MB of a column of 8 bytes."""
_REGULAR = 64
"""Regular samples of a rank's sorted rows for each rank: parts differ by at most 1 / 64 of a share."""


@dataclass(frozen=True)
class OverRanks:
    """Every method is collective, unless there is one rank."""

    rank: int = 0
    world: int = 1

    @staticmethod
    def here() -> "OverRanks":
        """Of the default process group; one rank where there is none."""
        if not dist.is_available() or not dist.is_initialized():
            return ALONE
        return OverRanks(dist.get_rank(), dist.get_world_size())

    def table(self, values: Sequence[float] | Floats) -> Floats:
        """(n,) -> (world, n) float64: each rank's values."""
        own = torch.from_numpy(np.asarray(values, dtype=np.float64).reshape(-1).copy())
        if not own.numel():
            return np.empty((self.world, 0))
        if self.world == 1:
            return own.numpy()[None]
        gathered = torch.empty(self.world, own.numel(), dtype=torch.float64)
        dist.all_gather(list(gathered), own)
        return gathered.numpy()

    def sums(self, *values: float) -> list[float]:
        table = self.table(values)
        total = table[0].copy()
        for row in table[1:]:
            total += row
        return [float(x) for x in total]

    def totals(self, *values: Floats) -> list[Floats]:
        """Of each of the values (n,): its sum over ranks, (n,)."""
        flat = self.sums(*np.concatenate(values)) if values else []
        return [np.array(part) for part in np.split(np.array(flat), len(values))]

    def count(self, number: int) -> int:
        return int(self.sums(number)[0])

    def mean(self, values: NDArray[Any], weights: Floats) -> float:
        """Weighted mean of all ranks' values, both (N,), as numpy.average rounds it; NaN without rows."""
        total, weight = self.sums(float(np.multiply(values, weights, dtype=np.float64).sum()), float(weights.sum()))
        return total / weight if weight else float("nan")

    def largest(self, values: Floats) -> float:
        """Of all ranks' values (N,), -inf without rows."""
        return float(self.table([values.max(initial=-np.inf)]).max())

    def smallest(self, values: Floats) -> float:
        return -self.largest(-values)

    def below(self, value: float) -> float:
        """Sum of the values of the ranks below this one."""
        return float(sum(self.table([value])[: self.rank, 0]))

    def objects(self, own: Result) -> list[Result]:
        """Each rank's small object."""
        objects: list[Any] = [own] * self.world
        if self.world > 1:
            dist.all_gather_object(objects, own)
        return objects

    def agreed(self, action: Callable[[], Result]) -> Result:
        """Runs `action` on each rank's rows. Raises DataError on all ranks if it raises one on some."""
        result, error = None, None
        try:
            result = action()
        except DataError as caught:  # raised after the exchange, in which the other ranks wait
            error = caught
        failed = self.table([error is not None])[:, 0]
        if failed.any():
            first = int(failed.argmax())
            raise error or DataError(f"rows of another rank, {first}, cannot be scored; its message tells why")
        return result  # type: ignore[return-value]

    def cuts(self, rows: int, *keys: Floats) -> tuple[Floats, ...]:
        """Cuts of sorted rows into one range for each rank, which share all ranks' rows evenly. keys: (rows,) each; the first
        one orders rows, the next one rows of equal first keys. Returns (world - 1,) of each key: a range's lowest keys.

        Parallel sorting by regular sampling (Shi and Schaeffer, JPDC 1992). Equal rows share a range. All cuts are inf where
        no rank has rows.
        """
        samples = _REGULAR * self.world
        places = (np.arange(samples) * rows) // samples
        own = [key[places] if rows else np.zeros(samples) for key in keys]
        table = self.table(np.concatenate([[float(rows)], *own]))
        share = np.repeat(table[:, 0] / samples, samples)
        of_ranks = [table[:, 1 + n * samples : 1 + (n + 1) * samples].reshape(-1)[share > 0] for n in range(len(keys))]
        share = share[share > 0]
        if not share.size:
            return tuple(np.full(self.world - 1, np.inf) for _ in keys)
        order = np.lexsort(of_ranks[::-1])
        before = np.cumsum(share[order]) - share[order]
        places = np.searchsorted(before, before[-1] * np.arange(1, self.world) / self.world)
        return tuple(key[order][np.minimum(places, order.size - 1)] for key in of_ranks)

    def exchanged(self, ends: NDArray[np.intp], *columns: NDArray[Any]) -> tuple[NDArray[np.int64], list[NDArray[Any]]]:
        """Gives rows to ranks. columns: (N,) each, sorted by receiver; ends: (world,), where each receiver's rows end.

        Returns (world,) the number of rows from each rank, and the columns of received rows, in the order of senders. Large
        exchanges are made in pieces.
        """
        if self.world == 1:
            return np.array([ends[-1]], np.int64), list(columns)
        begins = np.append(0, ends[:-1])
        sent = (ends - begins).astype(np.int64)
        received = torch.empty(self.world, dtype=torch.int64)
        dist.all_to_all_single(received, torch.from_numpy(sent.copy()))
        came = received.numpy()
        piece = max(1, _PIECE // self.world)
        rounds = -(-int(self.table([max(sent.max(), came.max())]).max()) // piece)
        places = np.cumsum(came) - came
        results = []
        for column in columns:
            result = np.empty(int(came.sum()), column.dtype)
            for turn in range(rounds):
                out, into = (np.clip(c - turn * piece, 0, piece).tolist() for c in (sent, came))
                parts = [column[b + turn * piece :][:n] for b, n in zip(begins, out, strict=True)]
                taken = torch.empty(sum(into), dtype=torch.from_numpy(result[:0]).dtype)
                dist.all_to_all_single(taken, torch.from_numpy(np.concatenate(parts)), into, out)
                begin = 0
                for place, n in zip(places, into, strict=True):
                    result[place + turn * piece : place + turn * piece + n] = taken.numpy()[begin : begin + n]
                    begin += n
            results.append(result)
        return came, results

    def pieces_on_first(
        self, rows: int, column: Callable[[slice], NDArray[Any]], most: int = 1 << 16
    ) -> Iterator[NDArray[Any]]:
        """On the first rank: all ranks' rows, in the order of ranks, at most `most` at a time. Nothing on others, which send
        theirs: every rank must exhaust it. column: called with some of this rank's `rows`, returns them, (n, ...)."""
        counts, nothing = self.table([rows])[:, 0].astype(int), column(slice(0, 0))
        for rank, count in enumerate(counts):
            for begin in range(0, count, most):
                end = min(begin + most, count)
                if rank == self.rank == 0:
                    yield column(slice(begin, end))
                elif rank == self.rank:
                    dist.send(torch.from_numpy(np.ascontiguousarray(column(slice(begin, end)))), 0)
                elif self.rank == 0:
                    taken = np.empty((end - begin, *nothing.shape[1:]), nothing.dtype)
                    dist.recv(torch.from_numpy(taken), rank)
                    yield taken


ALONE = OverRanks()
"""One process, which holds all rows."""
