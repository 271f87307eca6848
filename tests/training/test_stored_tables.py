"""Rows of stored tables and of their optimizers' state, read by a map in blocks of any size, against indexing of the whole."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from home_dist.training.checkpoint.contents import row_wise_values
from home_dist.training.checkpoint.table_plan import Shard, TablePlan
from home_dist.training.stored_tables import Place, gather, gather_box

ROWS, DIM = 40, 24
BLOCKS = ((0, 4), (4, 12), (16, 8))

maps = st.lists(st.integers(-1, ROWS - 1), min_size=1, max_size=60).map(lambda rows: np.array(rows, np.int64))
columns = st.integers(0, DIM - 1).flatmap(lambda first: st.tuples(st.just(first), st.integers(1, DIM - first)))


class InMemory:
    """Tensors of a checkpoint, and the most rows that were read at once."""

    def __init__(self, tensors: dict[str, torch.Tensor]):
        self.tensors, self.most = tensors, 0

    def dtype(self, name: str) -> torch.dtype:
        return self.tensors[name].dtype

    def box(self, name: str, offsets, sizes) -> torch.Tensor:
        self.most = max(self.most, max(sizes))
        values = self.tensors[name]
        for axis, (first, count) in enumerate(zip(offsets, sizes, strict=True)):
            assert first + count <= values.shape[axis]
            values = values.narrow(axis, first, count)
        return values.clone()


@settings(max_examples=200, deadline=None)
@given(rows=maps, block_bytes=st.integers(1, 200))
def test_gathered_rows_are_indexed_rows(rows, block_bytes):
    stored, fresh = torch.randn(ROWS, 3), torch.randn(len(rows), 3)
    reads: list[tuple[int, int]] = []

    def read(first: int, count: int) -> torch.Tensor:
        reads.append((first, count))
        return stored[first : first + count]

    out = fresh.clone()
    gather(rows, out, read, 12, block_bytes)
    mask = torch.from_numpy(rows >= 0)
    assert torch.equal(out, torch.where(mask[:, None], stored[torch.from_numpy(rows)], fresh))
    assert all(count * 12 <= max(block_bytes, 12) for _, count in reads)
    assert all(before[0] + before[1] <= after[0] for before, after in zip(reads, reads[1:], strict=False))


@settings(max_examples=100, deadline=None)
@given(rows=maps, span=columns, first=st.integers(0, 5))
def test_a_box_of_a_table_within_a_larger_tensor(rows, span, first):
    stored = InMemory({"t": torch.randn(first + ROWS, DIM)})
    out = torch.zeros(len(rows), span[1])
    gather_box(stored, Place("t", first, ROWS), rows, span[0], out)
    for row, source in enumerate(rows):
        wanted = stored.tensors["t"][first + source, span[0] : sum(span)] if source >= 0 else torch.zeros(span[1])
        assert torch.equal(out[row], wanted)


@settings(max_examples=100, deadline=None)
@given(rows=maps, span=columns, block_bytes=st.integers(1, 100))
def test_row_wise_state_is_the_mean_of_the_blocks_by_common_columns(rows, span, block_bytes):
    plan = TablePlan("column_wise", tuple(Shard(0, (0, ROWS), block) for block in BLOCKS))
    stored = InMemory({"t/momentum1": torch.rand(len(BLOCKS), ROWS)})
    shares = plan.shares(span)
    out = torch.full((len(rows),), -1.0)
    gather(rows, out, lambda a, n: row_wise_values(stored, "t/momentum1", shares, a, n), 4 * len(shares), block_bytes)
    of_columns = torch.cat([stored.tensors["t/momentum1"][n].repeat(w, 1) for n, (_, w) in enumerate(BLOCKS)]).double()
    mean = of_columns[span[0] : sum(span)].mean(0).float()
    for row, source in enumerate(rows):
        assert out[row].item() == pytest.approx(mean[source].item() if source >= 0 else -1.0, rel=1e-6)
    if len(shares) == 1:  # all bits
        assert torch.equal(out[torch.from_numpy(rows >= 0)], stored.tensors["t/momentum1"][shares[0][0]][rows[rows >= 0]])
