"""Look-ups of tables that every rank holds, against embedding's own gradient."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from home_dist.embeddings.replicated import _rows


@given(rows=st.integers(1, 40), shape=st.lists(st.integers(1, 30), min_size=1, max_size=2), seed=st.integers(0, 2**31))
def test_gradients_are_the_same_bits(rows, shape, seed):
    """Rows that are looked up often, once and never."""
    random = torch.Generator().manual_seed(seed)
    start = torch.randn(rows, 5, generator=random)
    ids = (torch.rand(shape, generator=random) ** 2 * rows).long()
    down = torch.randn(*shape, 5, generator=random)
    found = []
    for look_up in (_rows, lambda weight, ids: torch.nn.functional.embedding(ids, weight)):
        weight = start.clone().requires_grad_()
        out = look_up(weight, ids)
        out.backward(down)
        found.append((out, weight.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
