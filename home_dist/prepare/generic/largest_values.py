"""The largest values of each numeric column, and whether they are suspicious: one 1e30 among values in the thousands spoils
mean, deviation and the steps that values are rounded to.

Sizes are counted in integers, so that the report does not depend on how the log was cut.
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
from home_dist.prepare.engine.mirror import here
from home_dist.prepare.extremes import is_suspicious

EXTREMES, SIZES = "extremes.parquet", "sizes.parquet"
_BITS = 49  # low bits of a double that are dropped: each power of two keeps eight classes of size


def scan_extremes(numbers: Mapping[str, NDArray[np.float64]], row: Ints, folder: Path) -> None:
    """numbers: (N,) each, as in the log, NaN where missing; row: (N,) numbers of the rows in the log."""
    ranges, sizes = [], []
    for name, values in numbers.items():
        finite = np.flatnonzero(np.isfinite(values))
        infinite = int(np.isinf(values).sum())
        sizes_of_values = np.abs(values[finite])
        if len(sizes_of_values):
            at = int(finite[np.argmax(sizes_of_values)])
            low, high = float(values[finite].min()), float(values[finite].max())
            counts = np.bincount(sizes_of_values.view(np.int64) >> _BITS)
            classes = np.flatnonzero(counts)
            sizes.append(pa.table({"number": [name] * len(classes), "size": classes, "count": counts[classes]}))
            ranges.append({"number": name, "infinite": infinite, "lowest": low, "highest": high, "row": int(row[at])})
        else:
            ranges.append({"number": name, "infinite": infinite, "lowest": None, "highest": None, "row": None})
    kinds = [("number", pa.string()), ("infinite", pa.int64()), ("lowest", pa.float64()), ("highest", pa.float64())]
    pq.write_table(pa.Table.from_pylist(ranges, schema=pa.schema([*kinds, ("row", pa.int64())])), folder / EXTREMES)
    empty = pa.schema([("number", pa.string()), ("size", pa.int64()), ("count", pa.int64())]).empty_table()
    pq.write_table(pa.concat_tables([empty, *sizes]), folder / SIZES)


def extremes(scanned: Sequence[Path], files: Sequence[str], row_bits: int) -> dict[str, dict[str, Any]]:
    """By numeric column: lowest and highest value; how many values are infinite; bounds that half and 99.9 % of the absolute
    values stay below (to an eighth); file and row of the largest absolute value.

    files: names in the order of the log; row_bits: low bits of a row's number, which hold its place in its file.
    """
    all_ranges = pa.concat_tables([pq.read_table(here(folder / EXTREMES)) for folder in scanned])
    sizes = pa.concat_tables([pq.read_table(here(folder / SIZES)) for folder in scanned])
    entries: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(all_ranges.column("number").to_pylist()):
        ranges = all_ranges.filter(pc.equal(all_ranges.column("number"), name)).to_pylist()
        finite = [t for t in ranges if t["row"] is not None]
        entry: dict[str, Any] = {"infinite": sum(t["infinite"] for t in ranges)}
        if finite:
            largest = min(finite, key=lambda t: (-max(abs(t["lowest"]), abs(t["highest"])), t["row"]))
            entry |= {"lowest": min(t["lowest"] for t in finite), "highest": max(t["highest"] for t in finite)}
            half, most = _below(sizes.filter(pc.equal(sizes.column("number"), name)), (0.5, 0.999))
            entry |= {"half_below": half, "99.9%_below": most}
            entry |= {"file": files[largest["row"] >> row_bits], "row": (largest["row"] & ((1 << row_bits) - 1)) + 1}
            entry["suspicious"] = is_suspicious(entry["lowest"], entry["highest"], half, most)
        entries[name] = entry
    return entries


def _below(sizes: pa.Table, shares: Sequence[float]) -> list[float]:
    """For each share, the upper end of the size class up to which so many of the values lie."""
    sums = sizes.group_by("size").aggregate([("count", "sum")]).sort_by("size")
    size, reached = sums.column("size").to_numpy(), np.cumsum(sums.column("count_sum").to_numpy())
    classes = [int(size[np.searchsorted(reached, share * reached[-1])]) for share in shares]
    ends = np.asarray([(c + 1) << _BITS for c in classes], np.int64).view(np.float64)
    return [float(end) if c else 0.0 for c, end in zip(classes, ends, strict=True)]
