"""Rows gathered over real processes: exact, in order, for any dtype and any split."""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from home_dist.metrics import evaluate_tasks, gather_rows
from tests.ranks import spawn


def _start(rank: int, world: int, folder: str, body: Callable[[int, int, Path], None]) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = dist.FileStore(f"{folder}/store", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    try:
        body(rank, world, Path(folder))
    finally:
        dist.destroy_process_group()


def on_ranks(body: Callable[[int, int, Path], None], world: int, folder: Path) -> None:
    """Runs body(rank, world, folder) in `world` processes; raises what one of them raised."""
    spawn(_start, world, world, str(folder), body)


def part(rank: int, rows: list[int]) -> tuple[torch.Tensor, ...]:
    """This rank's rows of tables that all ranks can make: one per dtype, with 0, 1 and 2 further axes."""
    n, begin = sum(rows), sum(rows[:rank])
    random = torch.Generator().manual_seed(0)
    real = torch.randn(n, 3, generator=random)
    real[0, 0], real[-1, 1] = float("nan"), float("-inf")
    integers = torch.randint(-(2**62), 2**62, (n,), generator=random)
    whole = (
        real,
        real.double() / 3,
        real.half(),
        real.bfloat16(),
        integers,
        integers.int(),
        (integers % 2).bool(),
        torch.arange(n * 4).view(n, 2, 2),
        torch.empty(n, 0),
    )
    return tuple(t[begin : begin + rows[rank]] for t in whole)


def _gathers(rank: int, world: int, folder: Path) -> None:
    for rows in ([5, 2], [0, 3], [1, 0], [1000, 1]):
        wanted = [torch.cat([part(r, rows)[i] for r in range(world)]) for i in range(9)]
        for result, expected in zip(gather_rows(*part(rank, rows)), wanted, strict=True):
            assert result.dtype == expected.dtype
            torch.testing.assert_close(result, expected, rtol=0, atol=0, equal_nan=True)
    strided = torch.arange(12).view(6, 2)[:, rank]
    assert gather_rows(strided)[0].tolist() == [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]
    assert gather_rows(torch.empty(0, 4))[0].shape == (0, 4)
    alone = [dist.new_group([r]) for r in range(world)][rank]
    assert gather_rows(torch.full((2,), rank), process_group=alone)[0].tolist() == [rank, rank]


def _refuses(rank: int, world: int, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"ranks \[1\] pass other dtypes or widths than rank 0"):
        gather_rows(torch.zeros(2, 3 if rank else 4))
    # All ranks raised, and the group can go on.
    assert gather_rows(torch.full((1,), rank))[0].tolist() == [0, 1]


def _evaluates(rank: int, world: int, folder: Path) -> None:
    tables = [torch.from_numpy(a) for a in np.load(folder / "rows.npz").values()]
    cut = [0, 137, 400]
    gathered = gather_rows(*(t[cut[rank] : cut[rank + 1]] for t in tables))
    labels, weights, scores, groups = (t.numpy() for t in gathered)
    found = evaluate_tasks(["a", "b"], labels, weights, scores, groups)
    expected = evaluate_tasks(["a", "b"], *(t.numpy() for t in tables))
    assert found == expected


@pytest.mark.distributed
@pytest.mark.parametrize("body", [_gathers, _refuses, _evaluates], ids=lambda b: b.__name__.strip("_"))
def test_two_processes(body, tmp_path):
    random = np.random.default_rng(0)
    scores = random.random((400, 2), dtype=np.float32)
    labels = (random.random((400, 2)) < scores).astype(np.float32)
    weights = np.ones((400, 2), dtype=np.float32)
    np.savez(tmp_path / "rows.npz", labels=labels, weights=weights, scores=scores, groups=random.integers(0, 40, 400))
    on_ranks(body, 2, tmp_path)


def test_without_process_group():
    rows = torch.arange(3), torch.randn(3, 2)
    assert gather_rows(*rows) is rows or gather_rows(*rows)[0] is rows[0]


@pytest.mark.parametrize("tensors", [(), (torch.tensor(1.0),), (torch.zeros(2), torch.zeros(3))])
def test_misuse(tensors):
    with pytest.raises(ValueError, match="common number of rows"):
        gather_rows(*tensors)
