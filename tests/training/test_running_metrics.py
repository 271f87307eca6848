"""Running metrics of training: TorchRec's modules against the exact metrics of the same samples, from one rank and from two."""

import os
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist

from home_dist.metrics import evaluate_tasks
from home_dist.network import StepOutput
from home_dist.training.running_metrics import METRICS, Running
from tests.ranks import spawn

TASKS = ["plain", "partly labelled", "without positives", "without labels"]
STEPS = 40  # more than are counted together


def _steps(rank: int, interval: int) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    draw = torch.Generator().manual_seed(100 * interval + rank)
    found = []
    for _ in range(STEPS):
        logits = torch.randn(20, 4, generator=draw)
        labels = (torch.rand(20, 4, generator=draw) < torch.sigmoid(0.5 * logits)).float()
        weights = (torch.rand(20, 4, generator=draw) < torch.tensor([1.0, 0.6, 1.0, 0.0])).float()
        labels[:, 2] = 0
        found.append((logits, labels, weights))
    return found


def _body(rank: int, world: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = dist.FileStore(f"{folder}/store", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    running, nothing = Running(4, 16, world, rank, torch.device("cpu")), torch.zeros(())
    found = []
    for logits, labels, weights in _steps(rank, 7):
        running.add(StepOutput(logits, labels, weights, nothing, nothing, nothing, 0, 0))
    running.restart()  # what was before is forgotten, that which was counted and that which was held
    for interval in range(2):
        for step, (logits, labels, weights) in enumerate(_steps(rank, interval)):
            running.add(StepOutput(logits, labels, weights, nothing, nothing, nothing, 0, step))
        found.append(running.close())
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.distributed
@pytest.mark.parametrize("world", [1, 2])
def test_equal_the_exact_ones_of_each_interval(world, tmp_path):
    spawn(_body, world, world, str(tmp_path))
    of_ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(world)]
    for interval, found in enumerate(of_ranks[0]):
        steps = [s for rank in range(world) for s in _steps(rank, interval)]
        logits, labels, weights = (torch.cat([x[:16] for x in part]) for part in zip(*steps, strict=True))
        exact = evaluate_tasks(TASKS, labels.numpy(), weights.numpy(), torch.sigmoid(logits).double().numpy())
        for name in METRICS:
            expected = [getattr(task, name) for task in exact]
            assert np.isnan(expected).tolist() == [False, False, True, True]
            assert found[name] == pytest.approx(expected, rel=1e-5, nan_ok=True), name
        for other in of_ranks[1:]:
            assert str(other[interval]) == str(found)  # as text, in which NaN equals NaN
