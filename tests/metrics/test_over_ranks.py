"""XAUC by group and metrics within requests over 1, 2 and 3 real processes: those of all rows in one process."""

from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch

from home_dist.errors import DataError
from home_dist.ids.no_group import NO_GROUP
from home_dist.metrics import grouped_xauc, grouped_xauc_over_ranks, within_requests, within_requests_over_ranks
from tests.on_ranks import on_ranks

ROWS = 2000


def table() -> tuple[np.ndarray, ...]:
    """Labels, scores with ties, groups that are no small numbers (some missing), weights of which some are 0."""
    random = np.random.default_rng(0)
    groups = np.append(random.integers(-(2**62), 2**62, 150), NO_GROUP)[random.integers(0, 151, ROWS)]
    labels = (random.random(ROWS) < 0.1) * random.integers(1, 9, ROWS)
    return labels, random.random(ROWS).round(2), groups, random.integers(0, 3, ROWS).astype(float)


def same(found, expected) -> None:
    assert astuple(found) == pytest.approx(astuple(expected), abs=1e-12, nan_ok=True)


def _body(rank: int, world: int, folder: Path) -> None:
    whole = table()
    bounds = [*[0, ROWS // 5, ROWS // 2][:world], ROWS]  # uneven parts
    here = [torch.from_numpy(c[bounds[rank] : bounds[rank + 1]]) for c in whole]
    same(grouped_xauc_over_ranks(*here), grouped_xauc(*whole))
    same(grouped_xauc_over_ranks(*here[:3]), grouped_xauc(*whole[:3]))
    same(within_requests_over_ranks(*here, k=3), within_requests(*whole, k=3))
    same(within_requests_over_ranks(*here[:3]), within_requests(*whole[:3]))

    nothing = [c[:0] for c in here]
    last = here if rank == world - 1 else nothing  # the others have no rows
    assert within_requests_over_ranks(*last).requests_used > 0
    for over_ranks in (grouped_xauc_over_ranks, within_requests_over_ranks):
        assert np.isnan(astuple(over_ranks(*nothing))[0])
        bad = here[1].clone()
        if rank == 0:
            bad[0] = float("nan")  # one row, which one rank is given; all ranks end
        with pytest.raises(DataError, match=r"1 of .* scores are NaN|another rank"):
            over_ranks(here[0], bad, here[2])
    with pytest.raises(DataError, match=r"weights are no whole numbers|another rank"):
        within_requests_over_ranks(*here[:3], here[3] / 2)
    same(grouped_xauc_over_ranks(*here), grouped_xauc(*whole))  # ranks are still in step


@pytest.mark.distributed
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_equal_to_one_process(ranks, tmp_path: Path):
    on_ranks(_body, ranks, tmp_path)


def test_one_process_needs_no_group():
    columns = [torch.from_numpy(c) for c in table()]
    same(grouped_xauc_over_ranks(*columns), grouped_xauc(*table()))
    same(within_requests_over_ranks(*columns), within_requests(*table()))
