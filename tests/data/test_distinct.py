"""Distinct ids of a batch: numpy's, whatever the ids, and each id is where its place says."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from home_dist.data import distinct as module
from home_dist.data.buffers import Buffers

SIZE = 3
IDS = st.lists(st.one_of(st.integers(0, 5), st.integers(-(2**63), 2**63 - 1)), max_size=40)


@pytest.mark.parametrize("compiled", [True, False])
@given(columns=st.lists(IDS, min_size=1, max_size=3))
def test_places_lead_back_to_the_ids(compiled, columns):
    keys = [f"k{n}" for n in range(len(columns))]
    lengths = [count for ids in columns for count in (len(ids), 0, 0)]
    values = torch.tensor([i for ids in columns for i in ids], dtype=torch.int64)
    given_ids = KeyedJaggedTensor(keys, values, lengths=torch.tensor(lengths, dtype=torch.int32))
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setattr(module, "library_if_possible", lambda source: None)
        once, places = module.distinct(given_ids, Buffers(0))
    assert once.keys() == keys
    assert once.stride() == SIZE
    found = once.to_dict()
    for key, ids, at in zip(keys, columns, places.split([len(ids) for ids in columns]), strict=True):
        values = found[key].values()
        assert sorted(values.tolist()) == np.unique(np.array(ids, np.int64)).tolist()
        assert values[at].tolist() == ids
