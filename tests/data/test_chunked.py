"""Columns in pieces, gathered, and statistics: the compiled functions and numpy's against loops."""

import bisect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from home_dist.data import chunked, statistic
from home_dist.data.chunked import ChunkedColumns, ChunkStarts

TYPES = ["bool", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"]


@pytest.fixture(params=["compiled", "numpy"], autouse=True, scope="module")
def backend(request):
    patch = pytest.MonkeyPatch()
    if request.param == "numpy":
        for module in (chunked, statistic):
            patch.setattr(module, "native", lambda: None)
    elif chunked.native() is None:
        pytest.skip("no C++ compiler")
    yield
    patch.undo()


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(0, 7), min_size=1, max_size=4),
    types=st.lists(st.sampled_from(TYPES), min_size=1, max_size=4),
    whole=st.sets(st.integers(0, 3)),
    target=st.sampled_from(["i4", "i8", "f4"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_columns(lengths, types, whole, target, seed):
    random = np.random.default_rng(seed)
    rows = sum(lengths)
    values = [random.integers(0, 2 if t == "bool" else 100, rows).astype(t) for t in types]
    ends = np.cumsum(lengths)[:-1]
    columns = [[v] if i in whole else np.split(v, ends) for i, v in enumerate(values)]
    index = random.integers(0, rows, 9) if rows else np.zeros(0, np.int64)
    out = np.zeros((len(index), len(types) + 1), target)
    ChunkedColumns(columns, ChunkStarts(lengths)).gather(index, [out[:, i] for i in range(len(types))])
    assert out.tolist() == [[*(int(v[row]) for v in values), 0] for row in index]


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    types=st.lists(st.sampled_from(["i4", "i8", "f4"]), min_size=1, max_size=3),
    whole=st.sets(st.integers(0, 2)),
    seed=st.integers(0, 2**32 - 1),
)
def test_lists(lengths, types, whole, seed):
    random = np.random.default_rng(seed)
    rows = sum(lengths)
    offsets = np.concatenate([[0], np.cumsum(random.integers(0, 4, rows))]).astype(np.int64)
    values = [random.integers(0, 100, offsets[-1]).astype(t) for t in types]
    ends = offsets[np.cumsum(lengths)[:-1]]
    columns = [[v] if i in whole else np.split(v, ends) for i, v in enumerate(values)]
    index = random.integers(0, rows, 9) if rows else np.zeros(0, np.int64)
    block = ChunkedColumns(columns, ChunkStarts(lengths), offsets)
    new = block.offsets_of(index)
    outs = [np.empty(new[-1], np.int64) for _ in types]
    block.gather(index, outs)
    for found, v in zip(outs, values, strict=True):
        lists = [found[a:b].tolist() for a, b in zip(new, new[1:], strict=False)]
        assert lists == [v[offsets[row] : offsets[row + 1]].tolist() for row in index]


@settings(deadline=None, max_examples=60)
@given(
    dtype=st.sampled_from(["f4", "f8"]),
    limits=st.sampled_from([0, 1, 5, 63, 64, 200]),
    rows=st.sampled_from([0, 1, 255, 256, 700]),
    seed=st.integers(0, 2**32 - 1),
)
def test_buckets(dtype, limits, rows, seed):
    random = np.random.default_rng(seed)
    boundaries = np.sort(random.normal(size=limits))
    values = np.where(random.random(rows) < 0.5, random.normal(size=rows), random.choice([0.0, *boundaries], rows)).astype(
        dtype
    )
    assert statistic.buckets(values, boundaries).tolist() == [1 + bisect.bisect_right(boundaries, float(v)) for v in values]


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_standardised_in_double_precision(dtype):
    values = np.random.default_rng(0).normal(5, 3, 1000).astype(dtype)
    out = np.full((1000, 3), 7, np.float32)
    statistic.standardise(values, 5.1, 2.9, out[:, 1])
    assert out[:, 1].tolist() == [np.float32((float(v) - 5.1) / 2.9) for v in values]
    assert (out[:, [0, 2]] == 7).all()


@settings(deadline=None, max_examples=80)
@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    kind=st.sampled_from(TYPES),
    in_lists=st.booleans(),
    whole=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_differing(lengths, kind, in_lists, whole, seed):
    random = np.random.default_rng(seed)
    rows = sum(lengths)
    offsets = (
        np.concatenate([[0], np.cumsum(random.integers(0, 3, rows))]).astype(np.int64) if in_lists else np.arange(rows + 1)
    )
    values = random.integers(0, 2, offsets[-1]).astype(kind)
    column = [values] if whole else np.split(values, offsets[np.cumsum(lengths)[:-1]])
    columns = ChunkedColumns([column, column], ChunkStarts(lengths), offsets if in_lists else None)
    one, other = (random.integers(0, rows, 9 if rows else 0) for _ in range(2))
    lists = [values[a:b].tolist() for a, b in zip(offsets, offsets[1:], strict=False)]
    for place in (0, 1):
        assert columns.differing(place, one, other).tolist() == [lists[a] != lists[b] for a, b in zip(one, other, strict=True)]
