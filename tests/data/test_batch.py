"""A batch that moves to a device takes along what the host knows of its sizes."""

import numpy as np
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from home_dist.data.batch import Batch


def made() -> Batch:
    none = KeyedJaggedTensor.empty(values_dtype=torch.int64, lengths_dtype=torch.int32)
    ids = KeyedJaggedTensor(["a", "b"], torch.arange(6), lengths=torch.tensor([2, 0, 1, 0, 3, 0], dtype=torch.int32))
    lists = KeyedJaggedTensor(["c"], torch.arange(2), lengths=torch.tensor([1, 1, 0], dtype=torch.int32))
    one = torch.zeros(3, 1)
    keys = {"groups": torch.arange(3), "requests": torch.tensor([4, 4, 9]), "firsts": torch.tensor([0, 2])}
    return Batch(none, none, ids, none, lists, none, one.long(), one, one, one, one, one, torch.ones(3), **keys)


def test_sizes_stay_on_the_host():
    batch = made()
    moved = batch.to(torch.device("meta"), non_blocking=True)
    known = moved.on_host
    assert {key: lengths.tolist() for key, lengths in known.lengths.items()} == {"a": [2, 0, 1], "b": [0, 3, 0], "c": [1, 1, 0]}
    assert known.requests.tolist() == [4, 4, 9]
    assert known.firsts.tolist() == [0, 2]
    assert isinstance(known.firsts, np.ndarray)
    # Taken apart by key without a look at the device.
    assert moved.events._length_per_key == [3, 3]
    assert [len(x.values()) for x in moved.events.to_dict().values()] == [3, 3]
    assert moved.mask.device.type == "meta"
    assert batch.on_host is None


def test_a_batch_that_moves_on_keeps_them():
    moved = made().to(torch.device("meta"))
    assert moved.to(torch.device("meta")).on_host is moved.on_host
    assert moved.host_sizes() is None


def test_on_a_cpu_tensors_tell():
    assert made().to(torch.device("cpu")).on_host is None
