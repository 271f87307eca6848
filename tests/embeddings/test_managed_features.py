"""Several features on several managed tables: no id is filed under another feature or table (TorchRec's issue 4525)."""

import os
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from home_dist.embeddings.collections import initialise
from home_dist.embeddings.initial import Drawn
from home_dist.embeddings.managed import ManagedSharder, managed_collection, managed_rows
from home_dist.schema import Table
from tests.ranks import spawn

TABLES = [("video", 8), ("author", 8), ("tag", 8)]
KEYS = {name: [f"{name}_target", f"{name}_watched"] for name, _ in TABLES}


class Model(nn.Module):
    def __init__(self, ranks: int):
        super().__init__()
        tables = [(Table(name, 512, dim, False, managed="lfu"), KEYS[name]) for name, dim in TABLES]
        self.managed = managed_collection(tables, ranks, torch.device("meta"))

    def forward(self, ids: KeyedJaggedTensor) -> dict:
        return self.managed(ids)[0]


def _body(rank: int, world: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = dist.FileStore(f"{folder}/store{world}", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    sharders = [ManagedSharder(0.01, 5)]
    model = Model(world)
    topology = Topology(world_size=world, compute_device="cpu", local_world_size=world)
    fused = {name: ParameterConstraints(compute_kernels=["fused"]) for name, _ in TABLES}
    planner = EmbeddingShardingPlanner(topology=topology, constraints=fused)
    plan = planner.collective_plan(model, sharders, dist.group.WORLD)
    sharded = DistributedModelParallel(model, device=torch.device("cpu"), plan=plan, sharders=sharders)
    initialise(sharded, 0.01, 5)
    sharded.train()
    rows = managed_rows(sharded)
    assert rows == {name: 512 for name, _ in TABLES}
    held: dict[tuple[str, int], torch.Tensor] = {}
    keys = [k for name, _ in TABLES for k in KEYS[name]]
    hashes = np.random.default_rng(0).integers(0, 2**62, 60)  # the tables know the same ids
    for step in range(4):
        random = np.random.default_rng([step, rank])
        lengths = random.integers(0, 5, len(keys) * 4)
        ids = torch.from_numpy(hashes[random.integers(0, 60, int(lengths.sum()))])
        batch = KeyedJaggedTensor(keys, ids, lengths=torch.from_numpy(lengths.astype(np.int32)))
        found, given = sharded(batch), batch.to_dict()
        for name, _ in TABLES:
            for key in KEYS[name]:
                assert torch.equal(found[key].lengths(), given[key].lengths())
                for id, vector in zip(given[key].values().tolist(), found[key].values().detach(), strict=True):
                    assert torch.equal(held.setdefault((name, id), vector.clone()), vector)
    for name, dim in TABLES:
        every = Drawn(name, dim, 0.01, 5).rows(torch.arange(rows[name]), 0, dim)
        own = torch.stack([v for (table, _), v in held.items() if table == name])
        at = (every.unsqueeze(0) == own.unsqueeze(1)).all(2)
        assert bool((at.sum(1) == 1).all())  # each reads a row of its own table
        assert int(at.any(0).sum()) == len(own)  # and no two read one
    dist.destroy_process_group()


@pytest.mark.distributed
@pytest.mark.parametrize("world", [1, 2])
def test_each_feature_reads_the_rows_of_its_own_ids(world, tmp_path):
    spawn(_body, world, world, str(tmp_path))
