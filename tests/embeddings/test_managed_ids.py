"""Managed ids against a plain loop over sets; on any number of ranks the same."""

import re
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrec.sparse.jagged_tensor import JaggedTensor

from home_dist.embeddings.managed_ids import ManagedIds
from home_dist.errors import ConfigError
from home_dist.ids.managed_sets import ManagedSets


@dataclass
class Place:
    id: int = -1
    count: int = 0
    seen: int = 0


@dataclass
class Reference:
    """One table, as the module's text says, without tensors."""

    sets: ManagedSets
    policy: str
    admit: int
    max_age: int | None
    step: int = 0
    rows: dict[int, list[Place]] = field(default_factory=dict)
    waiting: dict[int, list[Place]] = field(default_factory=dict)

    def look_up(self, id: int) -> int:
        first = id // self.sets.quotient * self.sets.width
        own = [n for n, p in enumerate(self._of(self.rows, id)) if p.id == id and self._alive(p)]
        return first + (own[0] if own else 0)

    def train(self, counts: dict[int, int]) -> list[int]:
        """The rows that were taken."""
        self.step += 1
        taken, others = [], []
        for id in counts:
            for place in self._of(self.rows, id) + self._of(self.waiting, id):
                if not self._alive(place):
                    place.id, place.count, place.seen = -1, 0, 0
        for id, count in counts.items():
            own = [p for p in self._of(self.rows, id) if p.id == id and self._alive(p)]
            if own:
                own[0].count, own[0].seen = own[0].count + count, self.step
            else:
                wait = [p for p in self._of(self.waiting, id) if p.id == id and self._alive(p)]
                others.append((id, count, count + (wait[0].count if wait else 0), wait[0] if wait else None))
        by_set: dict[int, list[tuple[int, int, int, Place | None]]] = {}
        for entry in sorted(others, key=lambda e: (-e[2], e[0])):
            by_set.setdefault(entry[0] // self.sets.quotient, []).append(entry)
        for number, entries in by_set.items():
            due, unplaced = [e for e in entries if e[2] >= self.admit], []
            chances = self._cheapest(self.rows.get(number) or self._new(self.rows, number), first=1)
            for turn, (id, _, total, wait) in enumerate(due):
                place = chances[turn] if turn < len(chances) else None
                if place is None or not (not self._alive(place[1]) or self._less(place[1], total)):
                    continue
                place[1].id, place[1].count, place[1].seen = id, total, self.step
                taken.append(number * self.sets.width + place[0])
                if wait is not None:
                    wait.id, wait.count, wait.seen = -1, 0, 0
            got = {p.id for p in self.rows[number]}
            for id, count, total, wait in entries:
                if id in got:
                    continue
                if wait is not None:
                    wait.count, wait.seen = wait.count + count, self.step
                else:
                    unplaced.append((id, total))
            chances = self._cheapest(self.waiting.get(number) or self._new(self.waiting, number), first=0)
            for turn, (id, total) in enumerate(unplaced):
                if turn < len(chances):
                    place = chances[turn][1]
                    place.id, place.count, place.seen = id, total, self.step
        return taken

    def _cheapest(self, places: list[Place], first: int) -> list[tuple[int, Place]]:
        """Places that may be taken, the cheapest first."""
        open_ = [(n, p) for n, p in enumerate(places) if n >= first and not (self._alive(p) and p.seen == self.step)]
        price = {"lfu": lambda p: (p.count, p.seen), "lru": lambda p: (p.seen, p.seen)}[self.policy]
        return sorted(open_, key=lambda e: price(e[1]) if self._alive(e[1]) else (-1, -1))

    def _less(self, place: Place, total: int) -> bool:
        return place.count < total if self.policy == "lfu" else place.seen < self.step

    def _alive(self, place: Place) -> bool:
        return place.id >= 0 and (self.max_age is None or self.step - place.seen <= self.max_age)

    def _of(self, places: dict[int, list[Place]], id: int) -> list[Place]:
        number = id // self.sets.quotient
        return places.get(number) or self._new(places, number)

    def _new(self, places: dict[int, list[Place]], number: int) -> list[Place]:
        places[number] = [Place() for _ in range(self.sets.width)]
        return places[number]


def drawn(sets: ManagedSets, seed: int, steps: int, distinct: int) -> list[np.ndarray]:
    """Ids of each step, with new ones all the time, and some often."""
    random = np.random.default_rng(seed)
    hashes = random.integers(0, 2**62, 4 * distinct)
    return [hashes[random.zipf(1.2, random.integers(0, 60)) % distinct + 2 * step % (3 * distinct)] for step in range(steps)]


def parts(sets: ManagedSets, ranks: int, **options) -> list[ManagedIds]:
    own = sets.sets_of_rank(ranks) * sets.width
    return [ManagedIds(sets, ranks, torch.device("cpu"), rows=(r * own, (r + 1) * own), **options) for r in range(ranks)]


def of_rank(ids: np.ndarray, sets: ManagedSets, ranks: int, rank: int) -> torch.Tensor:
    """As TorchRec deals them: equal ranges of hashes."""
    return torch.from_numpy(ids[ids // (sets.hashes(ranks) // ranks) == rank])


def jagged(values: torch.Tensor) -> dict[str, JaggedTensor]:
    return {"video": JaggedTensor(values, lengths=torch.tensor([len(values)]))}


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(["lfu", "lru"]),
    st.sampled_from([1, 3]),
    st.sampled_from([None, 4]),
    st.sampled_from([24, 40, 200]),
    st.integers(0, 100),
)
def test_ids_come_and_go_as_in_a_loop(policy, admit, max_age, rows, seed):
    sets = ManagedSets.of(rows)
    expected = Reference(sets, policy, admit, max_age)
    modules = {n: parts(sets, n, policy=policy, admit=admit, max_age=max_age) for n in (1, 2)}
    for ids in drawn(sets, seed, 12, 60):
        taken = expected.train(dict(zip(*(x.tolist() for x in np.unique(ids, return_counts=True)), strict=True)))
        for ranks, of_ranks in modules.items():
            found_taken, found = [], {}
            for rank, module in enumerate(of_ranks):
                values = of_rank(ids, sets, ranks, rank)
                mapped = module(jagged(values))["video"].values()
                reset = module.evict()
                found_taken += [] if reset is None else reset.tolist()
                assert [expected.look_up(i) for i in values.tolist()] == mapped.tolist()
                found |= dict(zip(values.tolist(), mapped.tolist(), strict=True))
            assert sorted(found_taken) == sorted(taken)
            assert found.keys() == set(ids.tolist())
    [whole], several = modules[1], modules[2]
    for name in ("owners.id", "owners.count", "owners.seen", "waiting.id", "waiting.count", "waiting.seen"):
        joined = torch.cat([m.state_dict()[name] for m in several])[: sets.rows]
        assert torch.equal(joined, whole.state_dict()[name][: sets.rows])
    owners = whole.owners.id
    assert len(set(owners[owners >= 0].tolist())) == int((owners >= 0).sum())


def test_reading_changes_nothing_and_finds_the_same_rows():
    sets = ManagedSets.of(200)
    [module] = parts(sets, 1)
    [ids] = drawn(sets, 3, 1, 60)
    values = torch.from_numpy(ids)
    trained = module(jagged(values))["video"].values()
    state = {n: t.clone() for n, t in module.state_dict().items()}
    module.eval()
    assert torch.equal(module(jagged(values))["video"].values(), trained)
    assert module.evict() is not None
    assert module.evict() is None
    unknown = torch.tensor([5, 2**61, 2**62 - 1])
    shared = module(jagged(unknown))["video"].values()
    assert (shared % sets.width).tolist() == [0, 0, 0]
    assert all(torch.equal(state[n], t) for n, t in module.state_dict().items())
    assert module(jagged(values[:0]))["video"].values().tolist() == []


@pytest.mark.parametrize("rows", [1, 8, 63, 64, 1000, 4064, 8128, 8191, 8192, 10**6, 10**9])
def test_sets_are_those_of_their_own_rows(rows):
    sets = ManagedSets.of(rows)
    assert rows <= sets.rows < rows + sets.width
    assert ManagedSets.of(sets.rows) == sets
    for ranks in (1, 2, 3, 7, 128):
        if ranks < sets.sets:
            assert sets.padded_rows(ranks) % ranks == 0
            assert sets.hashes(ranks) < 2**63
            assert (2**62 - 1) // (sets.hashes(ranks) // ranks) < ranks
            sets.check_ranks("video", ranks)
    with pytest.raises(ConfigError, match="too few for"):
        sets.check_ranks("video", sets.sets + 1)


@pytest.mark.parametrize("rows", [8, 200, 2040, 10**6])
@pytest.mark.parametrize("ranks", [1, 20, 126, 127, 128, 300, 5000])
def test_the_rows_that_are_advised_are_enough(rows, ranks):
    try:
        ManagedSets.of(rows).check_ranks("video", ranks)
    except ConfigError as error:
        advised = int(re.search(r"more rows \(([\d,]+) or more\)", str(error))[1].replace(",", ""))
        ManagedSets.of(advised).check_ranks("video", ranks)
        assert advised > ManagedSets.of(rows).rows


def test_occurrences_do_not_overflow():
    """An id of 2^30 occurrences and more keeps its row against one that has just come, and a waiting one gets its row."""
    sets = ManagedSets.of(16)
    [module] = parts(sets, 1)
    old = torch.arange(sets.width - 1)  # of the first set
    module(jagged(old))
    for places in (module.owners, module.waiting):
        places.count[places.id >= 0] = 2**30 + 5
    for _ in range(3):
        module(jagged(torch.cat([old.repeat(1000), torch.tensor([100])])))
    assert set(old.tolist()) <= set(module.owners.id.tolist())
    assert int(module.owners.count.min()) >= 0
    assert int(module.owners.count.max()) == 2**30
    module.waiting.count[module.waiting.id == 100] = 2**30
    module.owners.count.clamp_(max=50)
    for n in range(3):
        module(jagged(torch.tensor([100 + n, 100, 100, 100, 100, 100, 100])))
    assert 100 in module.owners.id.tolist()
    assert int(module.owners.count.min()) >= 0
