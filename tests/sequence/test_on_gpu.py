"""What encoders compute where lengths of tensors on a GPU are on the host too, against what they compute on a CPU."""

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from home_dist.objectives.within import RequestsOfBatch
from home_dist.sequence import History, sim
from home_dist.sequence.history import HostLengths
from home_dist.sequence.jagged import best_within, newest_within, some_within
from tests.sequence import references
from tests.sequence.test_encoders import make
from tests.sequence.test_requests import MAKES, drawn, outputs


def as_on_gpu(history: History) -> History:
    """A copy that knows its lengths on the host, as one on a GPU does."""
    lengths = history.lengths.numpy()
    known = HostLengths(lengths, lengths if history.of_target is None else lengths[history.of_target.numpy()])
    copy = replace(history)
    copy.__dict__["on_host"] = known  # in place of the cached property, which tells nothing on a CPU
    return copy


@pytest.mark.parametrize("kind", MAKES)
@settings(max_examples=20, deadline=None)
@given(
    requests=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 3)), min_size=1, max_size=5).filter(
        lambda rs: sum(n for _, n in rs)
    ),
    most=st.integers(1, 6),
    sampled=st.sampled_from([2, 1000]),
)
def test_values_and_gradients(kind, requests, most, sampled):
    lengths, candidates = [length for length, _ in requests], [count for _, count in requests]
    name, options = MAKES[kind]
    encoder = make(name, **({"most": most} if "sim" in kind or "twin" in kind else {}), **options)
    torch.manual_seed(0)
    before, sim.SAMPLED = sim.SAMPLED, sampled
    try:
        for history in drawn(lengths, candidates)[:2]:
            leaves = [*encoder.parameters()]
            exact = (1e-10, 1e-10)
            references.compare(leaves, outputs(encoder, as_on_gpu(history)), outputs(encoder, history), exact, exact)
    finally:
        sim.SAMPLED = before


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(0, 12), min_size=1, max_size=6), most=st.integers(1, 13), skew=st.integers(0, 60))
def test_choices_within(lengths, most, skew):
    lengths = [skew, *lengths]
    sizes, counts = np.array(lengths), torch.tensor(lengths)
    owners = torch.repeat_interleave(torch.arange(len(lengths)), counts)
    scores = torch.randperm(len(owners), generator=torch.Generator().manual_seed(0)).float()
    pairs = [
        (best_within(scores, counts, owners, most), best_within(scores, counts, owners, most, sizes)),
        (newest_within(counts, owners, most), newest_within(counts, owners, most, sizes)),
    ]
    torch.manual_seed(0)
    one = some_within(counts, most)
    torch.manual_seed(0)
    for (chosen, kept), (chosen_too, kept_too) in [*pairs, (one, some_within(counts, most, sizes))]:
        assert chosen.tolist() == chosen_too.tolist()
        assert kept.tolist() == kept_too.tolist()


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_requests_of_a_batch(sizes):
    keys = torch.repeat_interleave(torch.arange(len(sizes)) % 2 * 7 - 1, torch.tensor(sizes))
    plain, known = RequestsOfBatch.of(keys), RequestsOfBatch.of(keys, keys.numpy())
    for name in ("owner", "first", "size"):
        assert getattr(plain, name).tolist() == getattr(known, name).tolist()
    assert known.paired == sum(n * n for n in sizes)
    assert [x.tolist() for x in plain.pairs()] == [x.tolist() for x in known.pairs()]


@pytest.mark.parametrize("shared", [False, True])
def test_newest_and_copies_keep_their_lengths_on_the_host(shared):
    history = drawn([5, 0, 2], [2, 1, 3])[0 if shared else 1]
    newest = as_on_gpu(history).newest(3)
    assert newest.lengths_on_host.histories.tolist() == newest.lengths.tolist()
    lengths = newest.lengths if not shared else newest.lengths[newest.of_target]
    assert newest.lengths_on_host.targets.tolist() == lengths.tolist()
    copied = as_on_gpu(history).spread()
    if shared:
        assert copied.lengths_on_host.histories.tolist() == copied.lengths.tolist() == copied.lengths_on_host.targets.tolist()
