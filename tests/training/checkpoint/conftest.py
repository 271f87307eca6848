"""A process group of one, which writing a checkpoint takes."""

import pytest
import torch.distributed as dist


@pytest.fixture(scope="module", autouse=True)
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()
