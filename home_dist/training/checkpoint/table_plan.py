"""How the tables of a checkpoint lay on the ranks that wrote it."""

from dataclasses import dataclass
from typing import Any

Columns = tuple[tuple[int, int], ...]
"""(first column, columns) of each block of a table."""


@dataclass(frozen=True)
class Shard:
    """What of a table lies on one rank."""

    rank: int
    rows: tuple[int, int]
    """First row, number of rows."""
    columns: tuple[int, int]


@dataclass(frozen=True)
class TablePlan:
    """How a table lay on ranks; data-parallel tables lie whole on every rank."""

    sharding: str
    shards: tuple[Shard, ...]

    @property
    def blocks(self) -> Columns:
        return tuple(sorted({s.columns for s in self.shards}))

    def to_json(self) -> dict[str, Any]:
        shards = [{"rank": s.rank, "rows": list(s.rows), "columns": list(s.columns)} for s in self.shards]
        return {"sharding": self.sharding, "shards": shards}

    @staticmethod
    def from_json(tree: dict[str, Any]) -> "TablePlan":
        shards = (Shard(s["rank"], tuple(s["rows"]), tuple(s["columns"])) for s in tree["shards"])
        return TablePlan(tree["sharding"], tuple(shards))
