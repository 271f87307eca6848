"""Sharding of a checkpoint's tables over the ranks that wrote it."""

from dataclasses import dataclass
from typing import Any

Columns = tuple[tuple[int, int], ...]
"""(first column, number of columns) of each block of a table."""


@dataclass(frozen=True)
class Shard:
    """The part of a table that one rank holds."""

    rank: int
    rows: tuple[int, int]
    """(first row, number of rows)"""
    columns: tuple[int, int]
    """(first column, number of columns)"""


@dataclass(frozen=True)
class TablePlan:
    """A table's shards; of a data-parallel table, every rank holds a whole copy."""

    sharding: str
    shards: tuple[Shard, ...]

    @property
    def blocks(self) -> Columns:
        return tuple(sorted({s.columns for s in self.shards}))

    def shares(self, columns: tuple[int, int]) -> list[tuple[int, int]]:
        """(block, number of common columns) of each block that overlaps `columns`, which are (first column, number)."""
        first, width = columns
        common = ((n, min(f + w, first + width) - max(f, first)) for n, (f, w) in enumerate(self.blocks))
        return [(block, share) for block, share in common if share > 0]

    def to_json(self) -> dict[str, Any]:
        shards = [{"rank": s.rank, "rows": list(s.rows), "columns": list(s.columns)} for s in self.shards]
        return {"sharding": self.sharding, "shards": shards}

    @staticmethod
    def from_json(tree: dict[str, Any]) -> "TablePlan":
        shards = (Shard(s["rank"], tuple(s["rows"]), tuple(s["columns"])) for s in tree["shards"])
        return TablePlan(tree["sharding"], tuple(shards))
