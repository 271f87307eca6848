"""Sets of rows of a managed table: an id may have a row of one set alone, which its hash tells.

As in a set-associative cache, finding and placing an id costs the same for any number of rows. Sets depend on the table's rows
alone, so that on any number of ranks an id is in the same set, and can keep its row. The first row of a set is that of all its
ids without a row of their own.
"""

from dataclasses import dataclass

from home_dist.errors import ConfigError
from home_dist.ids.rows import MANAGED_BITS

_MOST_WIDE, _LEAST_WIDE = 64, 8  # rows of a set
_SETS = 128  # that a table has at least, if its rows allow
STATE_BYTES = 32
"""Per row, beside its weights: the id that owns it and the one that waits, each with its occurrences and its last step."""


@dataclass(frozen=True)
class ManagedSets:
    sets: int
    width: int
    """Rows of a set, a power of 2."""

    @staticmethod
    def of(rows: int) -> "ManagedSets":
        """The sets of a table of `rows` rows, or of up to one set more."""
        width = _MOST_WIDE
        while width > _LEAST_WIDE and rows <= width * (_SETS - 1):  # rounded up, the same rows give the same sets
            width //= 2
        return ManagedSets(-(-rows // width), width)

    @property
    def rows(self) -> int:
        return self.sets * self.width

    @property
    def quotient(self) -> int:
        """A hash divided by it is the number of its set."""
        return -(-(2**MANAGED_BITS) // self.sets)

    def sets_of_rank(self, ranks: int) -> int:
        """Sets that each of `ranks` ranks holds; the last ranks may hold fewer, or none."""
        return -(-self.sets // ranks)

    def padded_rows(self, ranks: int) -> int:
        """Rows of the table with as many on each rank, as TorchRec shards it. Those behind `rows` are never used."""
        return self.sets_of_rank(ranks) * ranks * self.width

    def check_ranks(self, table: str, ranks: int) -> None:
        """Raises ConfigError if there are more ranks than sets to deal to them."""
        if ranks > max(1, self.sets - 1):
            tried = ((ranks + 1) * width for width in (_LEAST_WIDE, 16, 32, _MOST_WIDE))
            enough = next(rows for rows in tried if rows > self.rows and ManagedSets.of(rows).sets > ranks)
            raise ConfigError(
                f"table {table!r}: its {self.rows:,} managed rows are {self.sets:,} sets, too few for {ranks:,} ranks. Give it "
                f"more rows ({enough:,} or more), or leave embedding.tables.{table}.managed out."
            )

    def hashes(self, ranks: int) -> int:
        """Exclusive bound of hashes, so that TorchRec, which deals equal ranges of them to ranks, deals whole sets."""
        return self.sets_of_rank(ranks) * ranks * self.quotient
