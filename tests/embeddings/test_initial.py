"""Initial values of tables, against SplitMix64 in Python's whole numbers."""

from statistics import NormalDist

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from home_dist.embeddings import initial
from home_dist.embeddings.collections import TableShard
from home_dist.embeddings.initial import Drawn
from home_dist.ids.managed_sets import ManagedSets
from home_dist.insight import table_figures as figures


def reference(row: int, column: int, dim: int, std: float, key: int) -> float:
    """One value, straight from the module's text."""
    mask = (1 << 64) - 1
    word = (key + (row * -(-dim // 4) + column // 4) * 0x9E3779B97F4A7C15) & mask
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & mask
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & mask
    word ^= word >> 31
    piece = word >> (16 * (column % 4)) & 0xFFFF
    piece = piece - 0x10000 if piece >= 0x8000 else piece
    return NormalDist(0, std).inv_cdf((piece + 0x8000 + 0.5) / 65536)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**40), st.integers(1, 19), st.data())
def test_values_are_those_of_the_counter(first_row, dim, data):
    drawn = Drawn("item", dim, 0.5, 7)
    column = data.draw(st.integers(0, dim - 1))
    columns = data.draw(st.integers(1, dim - column))
    out = torch.zeros(3, columns)
    drawn.fill(out, first_row, column)
    expected = [[reference(first_row + r, column + c, dim, 0.5, drawn._key) for c in range(columns)] for r in range(3)]
    torch.testing.assert_close(out, torch.tensor(expected), rtol=2e-5, atol=1e-7)
    assert torch.equal(out, drawn.rows(torch.arange(first_row, first_row + 3), column, columns))


@pytest.mark.parametrize("compiled", [True, False])
def test_shards_join_to_the_whole_table(compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(initial, "_native", lambda: None)
    drawn, whole = Drawn("item", 18, 0.1, 1), torch.empty(5000, 18)
    drawn.fill(whole, 0, 0)
    for rows, columns in ((slice(0, 17), slice(0, 18)), (slice(4000, 5000), slice(3, 10)), (slice(1, 2), slice(8, 12))):
        shard = torch.empty(rows.stop - rows.start, columns.stop - columns.start)
        drawn.fill(shard, rows.start, columns.start)
        assert torch.equal(shard, whole[rows, columns])
    half = torch.empty(5000, 18, dtype=torch.float16)
    drawn.fill(half, 0, 0)
    assert torch.equal(half, whole.half())
    strided = torch.zeros(5000, 40)
    drawn.fill(strided[:, 2:20], 0, 0)
    assert torch.equal(strided[:, 2:20], whole)
    assert not strided[:, 20:].any()


@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_compiled_values_are_those_of_torch(kind, monkeypatch):
    drawn, compiled = Drawn("item", 64, 0.1, 1), torch.empty(30_000, 64, dtype=kind)
    plain, calls = torch.empty_like(compiled), list[tuple]()
    if initial._native() is None:
        pytest.skip("no C++ compiler")
    filled = drawn._fill_natively
    monkeypatch.setattr(Drawn, "_fill_natively", lambda *given: calls.append(given) or filled(*given[1:]))
    drawn.fill(compiled, 2**33, 0)
    assert calls
    monkeypatch.setattr(initial, "_native", lambda: None)
    drawn.fill(plain, 2**33, 0)
    assert torch.equal(compiled, plain)


def test_values_are_normal_and_independent():
    values = torch.empty(200_000, 16)
    Drawn("item", 16, 0.02, 3).fill(values, 0, 0)
    x = values.double() / 0.02
    assert abs(float(x.mean())) < 4 / x.numel() ** 0.5
    assert float(x.square().mean()) == pytest.approx(1, abs=6 / x.numel() ** 0.5)
    assert float((x**4).mean()) == pytest.approx(3, abs=0.04)
    for one, other in ((x[:, :-1], x[:, 1:]), (x[:-1], x[1:]), (x[:, :4], x[:, 4:8])):
        assert abs(float((one * other).mean())) < 4 / one.numel() ** 0.5
    for table, seed in (("item", 4), ("user", 3)):
        others = torch.empty(200_000, 16)
        Drawn(table, 16, 0.02, seed).fill(others, 0, 0)
        assert abs(float((x * others.double() / 0.02).mean())) < 4 / x.numel() ** 0.5


def test_of_no_rows_there_are_no_values():
    assert Drawn("item", 7, 0.5, 7).rows(torch.arange(0), 2, 3).shape == (0, 3)


@pytest.fixture
def one_rank():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_figures_of_a_large_table_are_of_a_fixed_number_of_rows(one_rank, monkeypatch):
    """A million rows, of which 30 % were looked up, in two shards: shares and sizes are near those of all rows."""
    rows, dim, read = 1_000_000, 8, list[int]()
    drawn, values = Drawn("item", dim, 0.01, 3), torch.empty(rows, dim)
    drawn.fill(values, 0, 0)
    used = torch.from_numpy(np.random.default_rng(0).permutation(900_000)[:300_000])
    values[used] += 0.05
    shards = [TableShard("item", rows, dim, values[:400_000], 0), TableShard("item", rows, dim, values[400_000:], 400_000)]
    shards.append(TableShard("item", rows, dim, values[:0], rows))  # of a rank that holds no row
    monkeypatch.setattr(figures, "table_shards", lambda _: shards)
    examined = figures._examined
    monkeypatch.setattr(figures, "_examined", lambda s, own, d: read.append(own.shape[1]) or examined(s, own, d))
    [found] = figures.table_figures(torch.nn.Identity(), 0.01, 3)
    assert sum(read) == found.examined == figures.SAMPLED
    assert found.rows == rows
    assert found.untouched == pytest.approx(0.7, abs=0.03)
    assert found.size == pytest.approx(float(values[used].square().mean().sqrt()), rel=0.03)
    assert found.used_to == pytest.approx(900_000, rel=0.01)
    assert found.used_to >= 890_000
    assert [len(figures.sampled_rows("item", n)) for n in (1, 4096, 4097, 10**9)] == [1, 4096, 4096, 4096]
    chosen = figures.sampled_rows("item", 10**9)
    assert bool((chosen.diff() > 0).all())
    assert int(chosen[-1]) < 10**9


@pytest.mark.parametrize("ranks", [1, 3])
def test_rows_that_pad_a_managed_table_do_not_count(ranks, one_rank, monkeypatch):
    sets = ManagedSets.of(25)
    drawn, values = Drawn("item", 4, 0.01, 3), torch.empty(sets.padded_rows(ranks), 4)
    drawn.fill(values, 0, 0)
    values[5:20] += 0.05
    monkeypatch.setattr(figures, "table_shards", lambda _: [TableShard("item", len(values), 4, values)])
    monkeypatch.setattr(figures, "managed_rows", lambda _: {"item": sets.rows})
    [found] = figures.table_figures(torch.nn.Identity(), 0.01, 3)
    assert (found.rows, found.examined, found.used_to) == (32, 32, 20)
    assert found.untouched == pytest.approx(17 / 32)
