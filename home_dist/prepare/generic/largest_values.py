"""The largest values of each number, and whether they can be meant: one value of 1e30 among thousands spoils mean, deviation
and the steps that values are rounded to.

Counts by size are of whole numbers, so that what is told does not depend on how the log was cut.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from home_dist.prepare.asof import Ints
from home_dist.prepare.extremes import is_suspicious

EXTREMES, SIZES = "extremes.parquet", "sizes.parquet"
_BITS = 49  # of a double that are left out: eight classes of size per power of two stay


def scan_extremes(numbers: Mapping[str, NDArray[np.float64]], row: Ints, folder: Path) -> None:
    """numbers: (N,) each as the log has them, NaN where missing; row: (N,) their numbers in the log."""
    told, sizes = [], []
    for name, values in numbers.items():
        finite = np.flatnonzero(np.isfinite(values))
        infinite = int(np.isinf(values).sum())
        own = np.abs(values[finite])
        if len(own):
            at = int(finite[np.argmax(own)])
            low, high = float(values[finite].min()), float(values[finite].max())
            counts = np.bincount(own.view(np.int64) >> _BITS)
            there = np.flatnonzero(counts)
            sizes.append(pa.table({"number": [name] * len(there), "size": there, "count": counts[there]}))
            told.append({"number": name, "infinite": infinite, "lowest": low, "highest": high, "row": int(row[at])})
        else:
            told.append({"number": name, "infinite": infinite, "lowest": None, "highest": None, "row": None})
    kinds = [("number", pa.string()), ("infinite", pa.int64()), ("lowest", pa.float64()), ("highest", pa.float64())]
    pq.write_table(pa.Table.from_pylist(told, schema=pa.schema([*kinds, ("row", pa.int64())])), folder / EXTREMES)
    none = pa.schema([("number", pa.string()), ("size", pa.int64()), ("count", pa.int64())]).empty_table()
    pq.write_table(pa.concat_tables([none, *sizes]), folder / SIZES)


def extremes(scanned: Sequence[Path], files: Sequence[str], row_bits: int) -> dict[str, dict[str, Any]]:
    """By number: lowest and highest value, how many are infinite, what half and 99.9 % of the absolute values stay below (to an
    eighth), and file and row of the largest one.

    files: by their number; row_bits: of a row's number, for its place in its file.
    """
    every = pa.concat_tables([pq.read_table(folder / EXTREMES) for folder in scanned])
    sizes = pa.concat_tables([pq.read_table(folder / SIZES) for folder in scanned])
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(every.column("number").to_pylist()):
        told = every.filter(pc.equal(every.column("number"), name)).to_pylist()
        own = [t for t in told if t["row"] is not None]
        entry: dict[str, Any] = {"infinite": sum(t["infinite"] for t in told)}
        if own:
            largest = min(own, key=lambda t: (-max(abs(t["lowest"]), abs(t["highest"])), t["row"]))
            entry |= {"lowest": min(t["lowest"] for t in own), "highest": max(t["highest"] for t in own)}
            half, most = _below(sizes.filter(pc.equal(sizes.column("number"), name)), (0.5, 0.999))
            entry |= {"half_below": half, "99.9%_below": most}
            entry |= {"file": files[largest["row"] >> row_bits], "row": (largest["row"] & ((1 << row_bits) - 1)) + 1}
            entry["suspicious"] = is_suspicious(entry["lowest"], entry["highest"], half, most)
        found[name] = entry
    return found


def _below(sizes: pa.Table, shares: Sequence[float]) -> list[float]:
    """The upper end of the class of sizes in which a share of the values is reached."""
    sums = sizes.group_by("size").aggregate([("count", "sum")]).sort_by("size")
    size, reached = sums.column("size").to_numpy(), np.cumsum(sums.column("count_sum").to_numpy())
    classes = [int(size[np.searchsorted(reached, share * reached[-1])]) for share in shares]
    ends = np.asarray([(c + 1) << _BITS for c in classes], np.int64).view(np.float64)
    return [float(end) if c else 0.0 for c, end in zip(classes, ends, strict=True)]
