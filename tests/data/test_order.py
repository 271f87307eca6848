"""The order of an epoch: every row once, on any number of ranks, through any stops."""

from collections import Counter

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from home_dist.data import order
from home_dist.data.order import Deal, Fragment, RowGroup, deal, lanes_for, make_windows, quotas

GROUPS = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=5), min_size=1, max_size=4).map(
    lambda files: [RowGroup(f, g, rows) for f, sizes in enumerate(files) for g, rows in enumerate(sizes)]
)


def rows_of(dealt: Deal, steps: range, lanes: range) -> list[tuple[int, int]]:
    """(window, place in its permutation) of the rows that these lanes read in these steps."""
    found = []
    for lane in lanes:
        rows = [(f.window, i) for f in dealt.lanes[lane] for i in range(f.start, f.stop)]
        quota = dealt.quota[lane]
        found += rows[steps.start * quota : steps.stop * quota]
    return found


@settings(max_examples=150, deadline=None)
@given(
    groups=GROUPS,
    window_rows=st.integers(1, 100),
    epoch=st.integers(0, 3),
    stages=st.lists(
        st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 12), st.integers(0, 6)), min_size=1, max_size=4
    ),
)
def test_every_row_is_read_once_through_any_stops_and_numbers_of_ranks(groups, window_rows, epoch, stages):
    """A stage: (ranks, wanted lanes, batch size per rank, steps until the stop); the last one runs to the end."""
    windows = make_windows(groups, window_rows, 7, epoch)
    rest, seen = windows.whole(), []
    for number, (ranks, wanted, batch, stop) in enumerate(stages):
        lanes = lanes_for(ranks, wanted)
        dealt = deal(rest, lanes, batch * ranks)
        steps = dealt.steps if number == len(stages) - 1 else min(stop, dealt.steps)
        seen += rows_of(dealt, range(steps), range(lanes))
        rest = dealt.remaining(steps)
    assert not rest
    expected = Counter((w, i) for w in range(len(windows.groups)) for i in range(windows.rows(w)))
    assert Counter(seen) == expected


@settings(max_examples=100, deadline=None)
@given(groups=GROUPS, batch=st.integers(1, 24), lanes=st.sampled_from([4, 8]))
def test_a_global_batch_has_the_same_rows_on_every_number_of_ranks(groups, batch, lanes):
    dealt = deal(make_windows(groups, 30, 7, 0).whole(), lanes, batch * lanes)
    for ranks in (1, 2, 4):
        share = lanes // ranks
        for step in range(dealt.steps):
            per_rank = [rows_of(dealt, range(step, step + 1), range(r * share, (r + 1) * share)) for r in range(ranks)]
            assert all(len(rows) <= batch * lanes // ranks for rows in per_rank)
            assert sorted(row for rows in per_rank for row in rows) == sorted(
                rows_of(dealt, range(step, step + 1), range(lanes))
            )
            if step < dealt.steps - 1:
                assert all(len(rows) == batch * lanes // ranks for rows in per_rank)


@given(total=st.integers(0, 1000), ranks=st.integers(1, 8), per=st.integers(1, 6))
def test_quotas_share_a_batch_evenly_among_ranks(total, ranks, per):
    split = quotas(total * ranks, ranks * per)
    assert [sum(split[r * per : (r + 1) * per]) for r in range(ranks)] == [total] * ranks
    assert max(split) - min(split) <= 1


def test_the_order_depends_on_seed_and_epoch_and_nothing_else():
    groups = [RowGroup(f, g, 10) for f in range(5) for g in range(6)]
    first = make_windows(groups, 50, 1, 0)
    assert first == make_windows(groups, 50, 1, 0)
    assert (first.permutation(2) == make_windows(groups, 50, 1, 0).permutation(2)).all()
    assert first.groups != make_windows(groups, 50, 1, 1).groups
    assert first.groups != make_windows(groups, 50, 2, 0).groups
    assert make_windows(groups, 50, None, 3).groups[0] == tuple(groups[:5])


@pytest.mark.parametrize(("window_rows", "least"), [(200, 0.45), (50, 0.2)])
def test_larger_windows_spread_the_rows_of_a_file_farther(window_rows, least):
    """Rows of one file, in order of reading: mean distance between neighbours' places, of what a full shuffle would give."""
    groups = [RowGroup(f, g, 10) for f in range(10) for g in range(10)]
    windows = make_windows(groups, window_rows, 3, 0)
    dealt = deal(windows.whole(), 4, 20)
    place = {}
    for step in range(dealt.steps):
        for row in rows_of(dealt, range(step, step + 1), range(4)):
            place[row] = step
    steps_of = {}
    for w, members in enumerate(windows.groups):
        order = windows.permutation(w).tolist()
        flat = [g for g in members for _ in range(g.rows)]
        for at, index in enumerate(order):
            steps_of.setdefault(flat[index].file, []).append(place[w, at])
    spreads = [max(s) - min(s) for s in steps_of.values()]
    assert sum(spreads) / len(spreads) > least * dealt.steps
    touched = [len(set(s)) for s in steps_of.values()]
    assert sum(touched) / len(touched) > 0.3 * dealt.steps


def dealt_lane_by_lane(fragments, lanes, global_batch):
    """What `deal` says, by asking all lanes for each piece."""
    quota, total = quotas(global_batch, lanes), sum(f.rows for f in fragments)
    full_steps, rest = divmod(total, global_batch)
    last = [rest * q // global_batch for q in quota]
    room = [lane for lane in range(lanes) if last[lane] < quota[lane]]
    for lane in room[: rest - sum(last)]:
        last[lane] += 1
    target = [full_steps * q + extra for q, extra in zip(quota, last, strict=True)]
    dealt, filled = [[] for _ in range(lanes)], [0] * lanes
    for fragment in fragments:
        while fragment.rows:
            lane = min((i for i in range(lanes) if filled[i] < target[i]), key=lambda i: filled[i] / target[i])
            stop = fragment.start + min(fragment.rows, target[lane] - filled[lane])
            dealt[lane].append(fragment._replace(stop=stop))
            filled[lane] += stop - fragment.start
            fragment = fragment._replace(start=stop)
    return tuple(map(tuple, dealt))


@settings(max_examples=300, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 60)), max_size=60),
    lanes=st.integers(1, 40),
    global_batch=st.integers(1, 200),
)
def test_a_heap_deals_as_a_look_at_every_lane_does(sizes, lanes, global_batch):
    fragments = [Fragment(number, start, start + rows) for number, (start, rows) in enumerate(sizes)]
    assert deal(fragments, lanes, global_batch).lanes == dealt_lane_by_lane(fragments, lanes, global_batch)


def test_dealing_takes_a_step_per_fragment_and_not_one_per_lane(monkeypatch):
    steps = Counter()
    for name in ("heapreplace", "heappop"):
        whole = getattr(order, name)
        monkeypatch.setattr(order, name, lambda *given, whole=whole: (steps.update(["steps"]), whole(*given))[1])
    fragments = [Fragment(number, 0, 100) for number in range(5000)]
    assert deal(fragments, 512, 512 * 8).rows == 500_000
    assert steps["steps"] <= len(fragments) + 2 * 512
