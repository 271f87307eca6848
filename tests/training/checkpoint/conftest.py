"""A process group of one, which writing a checkpoint takes."""

import pytest
import torch.distributed as dist


@pytest.fixture(scope="session", autouse=True)
def group():
    if dist.is_initialized():
        yield
        return
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()
