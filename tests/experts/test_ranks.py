"""Statistics over two real ranks: the bank on each half of a batch equals the bank on the whole."""

import itertools
from pathlib import Path

import pytest
import torch

from home_dist.experts.kernels import cpu_bank, eager
from tests.experts.cases import Case, compare
from tests.on_ranks import on_ranks

CUT = 13


def mixed(backend: str, made) -> torch.Tensor:
    arguments = (made.bank._operands(), made.inputs, made.gates, made.mask, "fp32")
    if backend == "eager":
        return eager.mixed(*arguments)
    return cpu_bank.mixed(*arguments)


BACKENDS = ["eager", "cpu"]
CASES = [Case(masked=True), Case(hidden=())]


def _body(rank: int, world: int, folder: Path) -> None:
    for backend, case in itertools.product(BACKENDS, CASES):
        made = case.make(torch.float64)
        rows = slice(0, CUT) if rank == 0 else slice(CUT, None)
        made.inputs = [x.detach()[rows].requires_grad_() for x in made.inputs]
        made.gates, made.pull = made.gates.detach()[:, rows].requires_grad_(), made.pull[:, rows]
        made.mask = None if made.mask is None else made.mask[rows]
        results = made.results(mixed(backend, made))
        results["running_var"] = made.bank.norm.running_var
        torch.save(results, f"{folder}/{backend}-{case}-{rank}.pt")


@pytest.mark.distributed
def test_two_ranks_equal_one(tmp_path: Path):
    on_ranks(_body, 2, tmp_path)
    for backend, case in itertools.product(BACKENDS, CASES):
        made = case.make(torch.float64)
        whole = made.results(mixed("eager", made))
        whole["running_var"] = made.bank.norm.running_var
        parts = [torch.load(tmp_path / f"{backend}-{case}-{rank}.pt") for rank in range(2)]
        joined = {}
        for name in whole:
            one, two = (p[name] for p in parts)
            if name == "running_var":
                torch.testing.assert_close(one, two, rtol=0, atol=0)
                joined[name] = one
            elif name in ("output", "gates"):
                joined[name] = torch.cat([one, two], 1)
            else:
                joined[name] = torch.cat([one, two]) if name.startswith("input") else one + two
        compare(joined, whole, 1e-9)
