"""Maps the columns of a table to those of another run's where rows hold a vector per task (schema/layout.py, Table.sets)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from home_dist.data.matching_rows import Unknown
from home_dist.schema import Table


@dataclass(frozen=True)
class SetMap:
    """Vectors of `width` columns, set by set."""

    width: int
    there: tuple[int | None, ...]
    """By set of this run's table: that of the other run's; None for a task that the other run lacks."""

    @staticmethod
    def of(here: Table, there: Table, our_tasks: Sequence[str], their_tasks: Sequence[str]) -> "SetMap":
        """The shared set takes the shared one, or the whole vector of a run without sets, and the other way round. Raises
        Unknown if vectors differ in width."""
        if here.shared_dim != there.shared_dim:
            raise Unknown(f"width {there.shared_dim} there, {here.shared_dim} here")
        theirs = {name: n + 1 for n, name in enumerate(their_tasks)} if there.sets > 1 else {}
        ours = our_tasks if here.sets > 1 else ()
        return SetMap(here.shared_dim, (0, *(theirs.get(name) for name in ours)))

    def within(self, column: int, width: int) -> Iterator[tuple[int, int, int]]:
        """Of the columns from `column` on: (first one, counted from there; its place in the other run's table; how many)."""
        for here, there in enumerate(self.there):
            low, high = max(column, here * self.width), min(column + width, (here + 1) * self.width)
            if there is not None and low < high:
                yield low - column, there * self.width + low - here * self.width, high - low

    @property
    def lacking(self) -> int:
        """Sets that keep their first values."""
        return sum(place is None for place in self.there)
