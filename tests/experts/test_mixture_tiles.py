"""Tiles of a mixture: what they hold, what they read, and that they are no dearer than reading everything."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from home_dist.experts.kernels.mixture_tiles import CHUNK, Sees, cut, expert_tiles, gate_tiles

CPU = torch.device("cpu")


def home(groups: int, tasks: int) -> torch.Tensor:
    """HoME's mask of the task layer: two shared experts, two of the group, one of its own."""
    sees = torch.zeros(tasks, 2 + 2 * groups + tasks, dtype=torch.bool)
    sees[:, :2] = True
    for task in range(tasks):
        group = task % groups
        sees[task, 2 + 2 * group : 4 + 2 * group] = True
        sees[task, 2 + 2 * groups + task] = True
    return sees


@settings(max_examples=30)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**31), st.sampled_from([0.05, 0.5, 1.0]))
def test_tiles_hold_each_pair_of_the_mask_once_and_no_other(gates, experts, seed, share):
    mask = torch.rand(gates, experts, generator=torch.Generator().manual_seed(seed)) < share
    sees = Sees.of(mask)
    for tiles, expected in ((gate_tiles(sees, 64, CPU), mask), (expert_tiles(sees, 16, CPU), mask.t())):
        found = torch.zeros(expected.shape, dtype=torch.int64)
        rows = tiles.rows.view(tiles.number, tiles.height)
        assert sorted(rows[rows >= 0].tolist()) == list(range(len(expected)))
        for tile in range(tiles.number):
            for chunk in range(int(tiles.starts[tile]), int(tiles.starts[tile + 1])):
                for place, row in enumerate(rows[tile].tolist()):
                    for bit, other in enumerate(tiles.needed[chunk].tolist()):
                        if int(tiles.bits[chunk, place]) >> bit & 1:
                            assert min(row, other) >= 0
                            found[row, other] += 1
        assert found.equal(expected.long())


def test_tasks_of_a_group_stand_in_one_tile():
    found = cut(Sees.of(home(5, 60)).experts_of)
    assert [len(rows) for rows, _ in found.tiles] == [12] * 5
    assert all(len({row % 5 for row in rows}) == 1 for rows, _ in found.tiles)
    assert (found.read, found.chunks, found.products) == (5 * 16, 5, 5 * 16 * CHUNK)


@pytest.mark.parametrize(("gates", "experts"), [(1, 1), (60, 72), (1, 300), (300, 1), (17, 33)])
def test_a_full_mask_is_cut_evenly(gates, experts):
    found = cut(Sees.all(gates, experts).experts_of)
    assert found.read == experts * len(found.tiles)
    assert len(found.tiles) == -(-gates // found.height)
