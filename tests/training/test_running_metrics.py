"""Running metrics of training: TorchRec's modules against the exact metrics of the same samples, from one rank and from two."""

import os
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist

from home_dist.metrics import evaluate_tasks
from home_dist.network import StepOutput
from home_dist.training.running_metrics import Running
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
    families = SimpleNamespace(measured=("binary",) * 4, predictions=(1,) * 4)
    running, nothing = Running(families, 16, world, rank, torch.device("cpu")), torch.zeros(())
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
        assert list(found) == ["auc", "normalized_entropy", "calibration"]
        for name in found:
            expected = [getattr(task, name) for task in exact]
            assert np.isnan(expected).tolist() == [False, False, True, True]
            assert found[name] == pytest.approx(expected, rel=1e-5, nan_ok=True), name
        for other in of_ranks[1:]:
            assert str(other[interval]) == str(found)  # as text, in which NaN equals NaN


def _number_and_class(rank: int, world: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = dist.FileStore(f"{folder}/store", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    families = SimpleNamespace(measured=("number", "class"), predictions=(1, 3))
    running, nothing = Running(families, 16, world, rank, torch.device("cpu")), torch.zeros(())
    for scores, labels, weights in _numbers_and_classes(rank):
        running.add(StepOutput(scores, labels, weights, nothing, nothing, nothing, 0, 0))
    torch.save(running.close(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def _numbers_and_classes(rank: int) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    draw = torch.Generator().manual_seed(rank)
    labels = [
        torch.stack([30 * torch.rand(16, generator=draw), torch.randint(0, 3, (16,), generator=draw)], 1) for _ in range(5)
    ]
    return [(5 * torch.randn(16, 4, generator=draw), y, torch.rand(16, 2, generator=draw).round()) for y in labels]


@pytest.mark.distributed
@pytest.mark.parametrize("world", [1, 2])
def test_numbers_and_classes_have_theirs(world, tmp_path):
    spawn(_number_and_class, world, world, str(tmp_path))
    found = torch.load(tmp_path / "0.pt", weights_only=False)
    steps = [s for rank in range(world) for s in _numbers_and_classes(rank)]
    scores, labels, weights = (torch.cat(part).double().numpy() for part in zip(*steps, strict=True))
    kept = weights > 0
    error = np.abs(scores[:, 0] - labels[:, 0])[kept[:, 0]].mean()
    ratio = scores[kept[:, 0], 0].sum() / labels[kept[:, 0], 0].sum()
    right = (scores[:, 1:].argmax(1) == labels[:, 1])[kept[:, 1]].mean()
    assert found["mae"] == pytest.approx([error, np.nan], nan_ok=True)
    assert found["calibration"] == pytest.approx([ratio, np.nan], nan_ok=True)
    assert found["accuracy"] == pytest.approx([np.nan, right], nan_ok=True)
    assert "auc" not in found
