"""A pool whose experts lie on several ranks equals the same pool on one, forward, gradients, statistics."""

import os
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from home_dist.experts.kernels import Kernel
from home_dist.experts.share import Share, pools_over
from home_dist.experts.sparse_bank import SparseBank
from tests.experts.cases import compare
from tests.experts.sparse_cases import SparseCase, SparseMade
from tests.on_ranks import on_ranks
from tests.ranks import spawn

CASES = {
    "plain": SparseCase(norm=False, experts=7, samples=41),
    "normalised": SparseCase(masked=True, experts=7, samples=41, hidden=(8, 24)),
    "one for all": SparseCase(norm=False, experts=9, slots=1, gates=2, favourite=True),  # most ranks get nothing
    "normalised, few": SparseCase(experts=30, slots=2, samples=33, masked=True),
}
BACKENDS = ("eager", "cpu")


def cuts(samples: int, world: int) -> list[slice]:
    """Ranks have batches of different sizes; the last has one sample."""
    ends = [samples * r // world for r in range(world)] + [samples]
    ends[-2] = samples - 1
    return [slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]


def pool(case: SparseCase, made: SparseMade, world: int, holders: int) -> SparseBank:
    """A pool over ranks with the values of `made`."""
    with pools_over(world, holders):
        bank = SparseBank(case.experts, case.in_dim, case.hidden, case.out_dim, case.norm).double()
    share = bank.share
    for own, whole in zip(bank.parameters(), made.bank.parameters(), strict=True):
        own.data.copy_(whole.data[share.first : share.first + share.count])
    return bank


def _body(holders: int, rank: int, world: int, folder: Path) -> None:
    for name, case in CASES.items():
        for backend in BACKENDS:
            made = case.make(torch.float64)
            bank = pool(case, made, world, holders)
            bank.kernel = Kernel(backend)
            rows = cuts(case.samples, world)[rank]
            x, gates = (t.detach()[..., rows, :].requires_grad_() for t in (made.x, made.gates))
            mask = None if made.mask is None else made.mask[rows]
            out = bank.of_chosen(x, made.chosen[:, rows], gates, mask)
            (out * made.pull[:, rows]).sum().backward()
            bank.eval()
            with torch.no_grad():
                everything = bank([x])
            found = {"output": out.detach(), "x": x.grad, "gates": gates.grad, "all": everything}
            found |= {f"own {n}": p.grad for n, p in bank.named_parameters()}
            found |= {f"own {n}": b for n, b in bank.named_buffers()}
            torch.save((bank.share.first, bank.share.writes, found), f"{folder}/{name}-{backend}-{rank}.pt")


@pytest.mark.distributed
@pytest.mark.parametrize(("world", "holders"), [(2, 2), (4, 4), (4, 2)])
def test_ranks_equal_one(tmp_path: Path, world: int, holders: int):
    on_ranks(partial(_body, holders), world, tmp_path)
    for name, case in CASES.items():
        for backend in BACKENDS:
            made = case.make(torch.float64)
            made.bank.kernel = Kernel(backend)
            expected = made.results(made.bank.of_chosen(made.x, made.chosen, made.gates, made.mask))
            expected |= dict(made.bank.named_buffers())
            made.bank.eval()
            expected["all"] = made.bank([made.x]).detach()
            by_rank = [torch.load(tmp_path / f"{name}-{backend}-{rank}.pt") for rank in range(world)]
            parts = [p for _, _, p in by_rank]
            joined = {n: torch.cat([p[n] for p in parts], 0 if n == "x" else 1) for n in ("output", "x", "gates", "all")}
            own = [p for _, writes, p in sorted(by_rank, key=lambda r: r[0]) if writes]
            assert len(own) == holders
            for key in (k for k in own[0] if k.startswith("own ")):
                joined[key[4:]] = torch.cat([p[key] for p in own])
                if "running" not in key:
                    joined[key[4:]] *= world  # gradients are means over ranks
            compare(joined, expected, 1e-12)
            for (first, _, one), (other, _, two) in zip(by_rank, by_rank[holders:], strict=False):
                assert first == other
                assert all(torch.equal(one[k], two[k]) for k in one if k.startswith("own "))  # copies stay alike


def test_first_values_are_those_of_the_whole_pool():
    torch.manual_seed(5)
    whole = SparseBank(10, 6, [5], 4, norm=True)
    after = torch.rand(1)
    torch.manual_seed(5)
    with pools_over(4, 4):
        share = SparseBank(10, 6, [5], 4, norm=True)
    assert share.share.counts() == [3, 3, 2, 2]
    assert all(torch.equal(a, b[:3]) for a, b in zip(share.parameters(), whole.parameters(), strict=True))
    assert torch.equal(torch.rand(1), after)


def _timeouts(rank: int, folder: str) -> None:
    store = dist.FileStore(f"{folder}/store", 4)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", store=store, rank=rank, world_size=4, timeout=timedelta(seconds=60))
    try:
        with pools_over(4, 2, 7):
            share = Share.of(8)
        for peers in (share.holders, share.copies):
            assert peers.group._get_backend(torch.device("cpu")).options._timeout == timedelta(seconds=7)
    finally:
        dist.destroy_process_group()


@pytest.mark.distributed
def test_their_exchange_waits_as_long_as_others(tmp_path: Path):
    spawn(_timeouts, 4, str(tmp_path))


@pytest.mark.parametrize(
    ("world", "experts", "at_most", "holders"),
    [(8, 64, 8, 8), (8, 64, 3, 2), (7, 64, 4, 1), (8, 3, 8, 2), (1, 64, 8, 1), (6, 64, 4, 3)],
)
def test_how_many_ranks_share(world, experts, at_most, holders):
    with pools_over(world, at_most):
        share = Share.of(experts)
    assert share.holders.count == holders
    assert sum(share.counts()) == experts
    assert share.world == (world if holders > 1 else 1)
