"""Which rows of a managed table belong to which ids: one rank's sets (ids/managed_sets.py).

Each row of a set keeps, beside the id that owns it, an id that waits for a row, both with their number of occurrences and the
step of their last one. A new id waits until it has occurred `admit` times; then it takes a free row of its set or, if there is
none, that of the id with the fewest occurrences, which must be fewer than its own (lfu), or of the id that was longest unseen
(lru). An id that has not occurred for `max_age` steps has lost its row. Of a step's ids none takes the row of another.

The cost of a step is that of its ids times the width of a set, whatever the number of rows.
"""

from typing import Any, Literal

import torch
from torch import nn
from torchrec.modules.mc_modules import ManagedCollisionModule
from torchrec.sparse.jagged_tensor import JaggedTensor

from home_dist.ids.managed_sets import ManagedSets

_SEEN_BITS, _WAY_BITS, _MOST_COUNTED = 31, 6, 2**24
_MOST = 2**30  # occurrences that are kept: with those of a step they stay below 2^31
_NEVER = 2**62  # price of a place that cannot be taken


class ManagedIds(ManagedCollisionModule):
    """TorchRec's interface of managed ids. Maps hashes to rows, and in training lets ids come and go."""

    _current_iter_tensor: torch.Tensor
    """(1,): steps done."""

    def __init__(
        self,
        sets: ManagedSets,
        ranks: int,
        device: torch.device,
        policy: Literal["lfu", "lru"] = "lfu",
        admit: int = 1,
        max_age: int | None = None,
        rows: tuple[int, int] | None = None,
    ):
        """rows: first and end of those on this rank; by default all."""
        first, end = rows or (0, sets.padded_rows(ranks))
        super().__init__(device=device, output_segments=[first, end])
        del self._output_segments_tensor  # would be in checkpoints, and sets do not depend on ranks
        self.sets, self.ranks, self.policy, self.admit, self.max_age = sets, ranks, policy, admit, max_age
        self.first_row, self._rows = first, end - first
        self.owners = _Places(self._rows, device)
        self.waiting = _Places(self._rows, device)
        self._taken: torch.Tensor | None = None
        self._mapped: tuple[torch.Tensor, torch.Tensor] | None = None

    def preprocess(self, features: dict[str, JaggedTensor]) -> dict[str, JaggedTensor]:
        return features

    @torch.no_grad()
    def profile(self, features: dict[str, JaggedTensor]) -> dict[str, JaggedTensor]:
        """Counts a step's ids, and gives rows to those that are due. features: one entry, the values of all the table's
        features."""
        if not self.training:
            return features
        [values] = [feature.values() for feature in features.values()]
        self._current_iter_tensor += 1
        ids, numbers, counts = torch.unique(values, return_inverse=True, return_counts=True)
        rows = self._step(ids, counts.int())
        self._mapped = (values, rows.index_select(0, numbers))
        return features

    @torch.no_grad()
    def remap(
        self, features: dict[str, JaggedTensor], mutate_miss_lengths: bool = True, write_weights: torch.Tensor | None = None
    ) -> dict[str, JaggedTensor]:
        """Hashes -> rows of the whole table."""
        found = {}
        for table, feature in features.items():
            values = feature.values()
            if self._mapped is not None and self._mapped[0] is values:
                rows = self._mapped[1]
            else:
                sets = self._sets(values)
                owns, way = self._find(self.owners, values, sets)
                rows = sets * self.sets.width + torch.where(owns, way, 0)
            found[table] = JaggedTensor(
                values=rows + self.first_row,
                lengths=feature.lengths(),
                offsets=feature.offsets(),
                weights=feature.weights_or_none(),
            )
        self._mapped = None
        return found

    def forward(self, features: dict[str, JaggedTensor], mutate_miss_lengths: bool = True) -> dict[str, JaggedTensor]:
        return self.remap(self.profile(features))

    def evict(self) -> torch.Tensor | None:
        """(n,) rows of the whole table that ids have got since the last call, and that start anew."""
        taken, self._taken = self._taken, None
        return None if taken is None else taken + self.first_row

    def _step(self, ids: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """ids: (n,) distinct, ascending, so that those of a set are neighbours; counts: (n,). Returns the rows that they read,
        on this rank."""
        sets = self._sets(ids)
        for places in (self.owners, self.waiting):
            self._expire(places, sets)
        owns, way = self._find(self.owners, ids, sets)
        rows = sets * self.sets.width + torch.where(owns, way, 0)
        self._count(self.owners, rows[owns], counts[owns])
        others = (~owns).nonzero().squeeze(1)
        if not len(others):
            return rows
        waits, way = self._find(self.waiting, ids[others], sets[others])
        waiting = sets[others] * self.sets.width + way
        total = counts[others] + torch.where(waits, self.waiting.count[waiting], 0)
        order = total.argsort(descending=True, stable=True)  # of each set the most frequent first
        order = order[sets[others[order]].argsort(stable=True)]
        others, waits, waiting, total = others[order], waits[order], waiting[order], total[order]
        got = self._take(self.owners, ids[others], sets[others], total, total >= self.admit)
        placed = got >= 0
        rows[others[placed]] = got[placed]
        self._taken = got[placed]
        self.waiting.clear(waiting[waits & placed])
        still = waits & ~placed
        self._count(self.waiting, waiting[still], counts[others][still])
        self._take(self.waiting, ids[others], sets[others], total, ~waits & ~placed)
        return rows

    def _sets(self, ids: torch.Tensor) -> torch.Tensor:
        """(n,) the ids' sets, of those on this rank."""
        return torch.div(ids, self.sets.quotient, rounding_mode="floor") - self.first_row // self.sets.width

    def _of_sets(self, values: torch.Tensor, sets: torch.Tensor) -> torch.Tensor:
        """(n, width) of values (rows,)."""
        return values.view(-1, self.sets.width).index_select(0, sets)

    def _find(self, places: "_Places", ids: torch.Tensor, sets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(n,) each: whether an id has a place in its set, and which."""
        same = self._of_sets(places.id, sets) == ids.unsqueeze(1)
        if self.max_age is not None:
            same &= ~self._old(places, sets, self.max_age)
        found, way = same.max(1)
        return found, way

    def _expire(self, places: "_Places", sets: torch.Tensor) -> None:
        """Takes their places from ids that have been unseen for too long."""
        if self.max_age is None:
            return
        numbers, ways = self._old(places, sets, self.max_age).nonzero().unbind(1)
        places.clear(sets[numbers] * self.sets.width + ways)

    def _old(self, places: "_Places", sets: torch.Tensor, age: int) -> torch.Tensor:
        """(n, width) whether a place's id has been unseen for more steps."""
        return self._current_iter_tensor - self._of_sets(places.seen, sets) > age

    def _count(self, places: "_Places", rows: torch.Tensor, counts: torch.Tensor) -> None:
        places.count[rows] = (places.count[rows] + counts).clamp(max=_MOST)
        places.seen[rows] = self._current_iter_tensor.int()

    def _take(
        self, places: "_Places", ids: torch.Tensor, sets: torch.Tensor, total: torch.Tensor, wanted: torch.Tensor
    ) -> torch.Tensor:
        """Gives places to those of the ids that are `wanted`. ids: (n,) ordered by set, in each by rank; total: (n,) their
        occurrences. Returns the row of each, (n,), or -1."""
        taken = torch.full_like(ids, -1)
        chosen = wanted.nonzero().squeeze(1)
        if not len(chosen):
            return taken
        ids, sets, total = ids[chosen], sets[chosen], total[chosen]
        asked, number, members = torch.unique_consecutive(sets, return_inverse=True, return_counts=True)
        turn = torch.arange(len(ids), device=ids.device) - (members.cumsum(0) - members)[number]
        most = min(int(members.max()), self.sets.width)
        prices, ways = self._prices(places, asked).topk(most, dim=1, largest=False)
        at = number * most + turn.clamp(max=most - 1)
        price = prices.view(-1).index_select(0, at)
        offered = torch.full_like(total, _NEVER, dtype=torch.int64)
        if places is self.owners:
            offered = self._price(total, self._current_iter_tensor if self.policy == "lru" else 0)
        accepted = (turn < most) & (price < offered)
        rows = (sets * self.sets.width + ways.reshape(-1).index_select(0, at))[accepted]
        places.id[rows] = ids[accepted]
        places.count[rows] = total[accepted].int().clamp(max=_MOST)
        places.seen[rows] = self._current_iter_tensor.int()
        taken[chosen[accepted]] = rows
        return taken

    def _prices(self, places: "_Places", sets: torch.Tensor) -> torch.Tensor:
        """(n, width) what an id that takes a place must be worth more than, no two the same in a set; less than 0 where the
        place is free. An id of this step keeps its place, and the first row of a set belongs to none."""
        seen, way = self._of_sets(places.seen, sets), torch.arange(self.sets.width, device=sets.device)
        prices = self._price(self._of_sets(places.count, sets), seen.long()) + way
        prices = torch.where(seen == self._current_iter_tensor, _NEVER, prices)
        prices = torch.where(self._of_sets(places.id, sets) >= 0, prices, way - self.sets.width)
        if places is self.owners:
            prices[:, 0] = _NEVER
        return prices

    def _price(self, count: torch.Tensor, seen: torch.Tensor | int) -> torch.Tensor:
        """By occurrences, or by the last step; of equally frequent ids the longest unseen is the cheapest. Leaves _WAY_BITS."""
        often = count.long().clamp(max=_MOST_COUNTED) << _SEEN_BITS if self.policy == "lfu" else torch.zeros_like(count).long()
        return (often + seen) << _WAY_BITS

    def output_size(self) -> int:
        return self._rows

    def input_size(self) -> int:
        return self.sets.hashes(self.ranks)

    def buckets(self) -> int:
        return self.ranks

    def validate_state(self) -> None:
        """Any state fits: sets do not depend on ranks."""

    def open_slots(self) -> torch.Tensor:
        return (self.owners.id < 0).sum().view(1)

    def rebuild_with_output_id_range(
        self, output_id_range: tuple[int, int], output_segments: list[int], device: Any = None
    ) -> "ManagedIds":
        options = (self.policy, self.admit, self.max_age, output_id_range)
        return ManagedIds(self.sets, self.ranks, device or self.device, *options)


class _Places(nn.Module):
    """(rows,) each: the id at each row, -1 for none; how often it occurred; and in which step the last time."""

    id: torch.Tensor
    count: torch.Tensor
    seen: torch.Tensor

    def __init__(self, rows: int, device: torch.device):
        super().__init__()
        self.register_buffer("id", torch.full((rows,), -1, dtype=torch.int64, device=device))
        self.register_buffer("count", torch.zeros(rows, dtype=torch.int32, device=device))
        self.register_buffer("seen", torch.zeros(rows, dtype=torch.int32, device=device))

    def clear(self, rows: torch.Tensor) -> None:
        self.id[rows] = -1
        self.count[rows] = 0
        self.seen[rows] = 0
