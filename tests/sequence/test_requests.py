"""Histories that several targets read, against a copy of the history for each target."""

from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from home_dist.sequence import Encoded, Encoder, encoded_by, search, sim
from home_dist.sequence.history import History
from tests.sequence import references
from tests.sequence.test_encoders import DC, DE, KINDS, make

MAKES = {**{kind: (kind, {}) for kind in KINDS}, "twin per head": ("twin", {"search_per_head": True})}


def drawn(lengths: Sequence[int], candidates: Sequence[int], users: bool = True) -> tuple[History, History, list[torch.Tensor]]:
    """Histories that candidates[r] targets each read, the same with copies, and the leaves of both. Copies are made one by
    one."""
    targets, n = sum(candidates), sum(lengths)
    rows = max(lengths, default=1) + 5
    items = torch.randn(rows, DE, dtype=torch.float64, requires_grad=True)
    contexts = torch.randn(n, DC, dtype=torch.float64, requires_grad=True)
    of_target = torch.randn(targets, DE, dtype=torch.float64, requires_grad=True)
    # A history has an item once: of events with equal scores, a search may take any.
    ids = torch.cat([torch.randperm(rows)[:length] for length in lengths])
    wanted = torch.randint(0, rows, (targets,))
    own = {"item": wanted, "category": wanted % 3}
    history = [r for r, count in enumerate(candidates) for _ in range(count)]
    starts = [sum(lengths[:r]) for r in range(len(lengths))]
    copies = torch.tensor([e for r in history for e in range(starts[r], starts[r] + lengths[r])], dtype=torch.int64)
    user = torch.arange(len(lengths)) // 2
    shared = History(
        items[ids],
        contexts,
        of_target,
        torch.tensor(lengths),
        {"item": ids, "category": ids % 3},
        own,
        user if users else None,
        torch.tensor(history),
    )
    plain = History(
        items[ids[copies]],
        contexts[copies],
        of_target,
        torch.tensor([lengths[r] for r in history]),
        {"item": ids[copies], "category": ids[copies] % 3},
        own,
        user[history] if users else None,
    )
    return shared, plain, [items, contexts, of_target]


def outputs(encoder: Encoder, history: History) -> list[torch.Tensor]:
    torch.manual_seed(7)
    encoded = encoded_by(encoder, history)
    return [encoded.vector, *encoded.auxiliary.values(), *(logits for logits, _ in encoded.predictions.values())]


def compare(encoder: Encoder, shared: History, plain: History, leaves: list[torch.Tensor]) -> None:
    exact = (1e-10, 1e-10)
    references.compare([*leaves, *encoder.parameters()], outputs(encoder, shared), outputs(encoder, plain), exact, exact)


@pytest.fixture(params=[1, 10**9], ids=["by history", "by pairs"])
def many(request, monkeypatch):
    """From how many targets of a history on a call per history pays."""
    monkeypatch.setattr(search, "MANY", request.param)


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("kind", MAKES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    requests=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), min_size=1, max_size=6),
    users=st.booleans(),
    seed=st.integers(0, 99),
)
def test_shared_histories_equal_their_copies(kind, requests, users, seed):
    lengths, candidates = zip(*requests, strict=True)
    torch.manual_seed(seed)
    shared, plain, leaves = drawn(lengths, candidates, users)
    name, changes = MAKES[kind]
    compare(make(name, **changes), shared, plain, leaves)


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("kind", MAKES)
@pytest.mark.parametrize("sampled", [200, 1000])
def test_long_histories(kind, sampled, monkeypatch):
    """Longer than those for which inner products are a sparse product, and than the search's loss reads."""
    monkeypatch.setattr(sim, "SAMPLED", sampled)
    torch.manual_seed(2)
    name, changes = MAKES[kind]
    compare(make(name, most=20, **changes), *drawn([290, 0, 150, 400], [3, 2, 2, 1]))


def test_some_events_of_each_history():
    """`take` keeps who reads which history; `take_pairs` gives each target its own events."""
    torch.manual_seed(4)
    shared, plain, _ = drawn([3, 2], [2, 1])
    kept = shared.take(torch.tensor([1, 2, 4]), torch.tensor([2, 1]))
    assert torch.equal(kept.spread().events, plain.events[[1, 2, 4, 5, 7]])
    apart = shared.take_pairs(torch.tensor([0, 4, 5, 7]), torch.tensor([1, 2, 1]))
    assert apart.of_target is None
    for found, expected in ((apart.contexts, plain.contexts[[0, 4, 5, 7]]), (apart.users, plain.users)):
        torch.testing.assert_close(found, expected)


def test_encoders_that_know_no_requests_get_copies():
    class Mean(Encoder):
        out_dim = DE

        def forward(self, history: History) -> Encoded:
            total = torch.zeros(len(history.lengths), DE, dtype=torch.float64).index_add(0, history.owners, history.events)
            return Encoded(total + history.targets)

    torch.manual_seed(5)
    compare(Mean(), *drawn([3, 0, 4], [2, 3, 1]))


def test_products_of_a_search_keep_fp32_under_bf16(monkeypatch):
    """Rounded to bf16, its scores would choose other events."""
    torch.manual_seed(6)
    encoder = make("sim soft", most=20).float()
    shared, plain, _ = drawn([150, 90], [9, 9])
    found = []
    for history, many in ((shared, 1), (shared, 10**9), (plain, 1)):
        for field in ("events", "contexts", "targets"):
            setattr(history, field, getattr(history, field).detach().float())
        monkeypatch.setattr(search, "MANY", many)
        encoder.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            values = outputs(encoder, history)
        sum(value.float().square().sum() for value in values).backward()
        found.append([*(v.detach().float() for v in values), *(p.grad for p in encoder.parameters())])
    for one, *others in zip(*found, strict=True):
        for other in others:
            torch.testing.assert_close(one, other, rtol=3e-2, atol=3e-2)
