"""GAUC by exchanged rows over real processes: scikit-learn's, group by group, with every bad input defined."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from home_dist.errors import DataError
from home_dist.metrics import gauc, gauc_over_ranks, rows_of_own_groups
from tests.on_ranks import on_ranks

RANKS = 2


def table(seed: int = 0, rows: int = 3000) -> tuple[np.ndarray, ...]:
    """Labels, scores with ties, groups that are no small numbers, weights of which some are 0."""
    random = np.random.default_rng(seed)
    groups = random.integers(-(2**62), 2**62, 200)[random.integers(0, 200, rows)]
    return random.integers(0, 2, rows), random.random(rows).round(2), groups, random.integers(0, 4, rows) / 2


def by_group(labels, scores, groups, weights) -> tuple[float, int, int]:
    area = total = 0.0
    used = left_out = 0
    for group in np.unique(groups[weights > 0]):
        rows = (groups == group) & (weights > 0)
        if len(set(labels[rows])) < 2:
            left_out += 1
            continue
        used += 1
        area += weights[rows].sum() * roc_auc_score(labels[rows], scores[rows], sample_weight=weights[rows])
        total += weights[rows].sum()
    return area / total, used, left_out


def part(rank: int, *columns: np.ndarray) -> list[torch.Tensor]:
    """Uneven parts."""
    n = len(columns[0])
    bounds = [0, n // 3, n]
    return [torch.from_numpy(c[bounds[rank] : bounds[rank + 1]]) for c in columns]


def _body(rank: int, world: int, folder: Path) -> None:
    labels, scores, groups, weights = table()
    here = part(rank, labels, scores, groups, weights)
    found = gauc_over_ranks(*here)
    value, used, left_out = by_group(labels, scores, groups, weights)
    assert found.value == pytest.approx(value, abs=1e-9)
    assert (found.groups_used, found.groups_left_out) == (used, left_out)
    one = gauc(labels, scores, groups, weights)
    assert found.value == pytest.approx(one.value, abs=1e-12)
    assert found.impressions_used == pytest.approx(one.impressions_used)

    mine, number = rows_of_own_groups(here[2], *part(rank, np.arange(len(labels))))
    assert (groups[number] == mine.numpy()).all()
    np.save(folder / f"rows-{rank}.npy", number.numpy())

    one_class = gauc_over_ranks(torch.ones_like(here[0]), *here[1:])
    assert np.isnan(one_class.value)
    assert (one_class.groups_used, one_class.impressions_used) == (0, 0)
    alone = gauc_over_ranks(*(c if rank else c[:0] for c in here))  # one rank has no rows
    assert alone.groups_used > 0
    nothing = gauc_over_ranks(*(c[:0] for c in here))
    assert np.isnan(nothing.value)
    assert nothing.groups_left_out == 0
    assert np.isnan(gauc_over_ranks(*here[:3], torch.zeros_like(here[3])).value)
    bad = here[1].clone()
    if len(bad) and rank == 0:
        bad[0] = float("nan")  # one row, which one rank is given; all ranks end
    with pytest.raises(DataError, match=r"1 of .* scores are NaN|another rank"):
        gauc_over_ranks(here[0], bad, here[2])


@pytest.mark.distributed
def test_against_sklearn_on_ranks(tmp_path: Path):
    on_ranks(_body, RANKS, tmp_path)
    rows = [np.load(tmp_path / f"rows-{rank}.npy") for rank in range(RANKS)]
    assert sorted(np.concatenate(rows).tolist()) == list(range(3000))  # each row once
    groups = table()[2]
    assert not set(groups[rows[0]]) & set(groups[rows[1]])
    assert min(map(len, rows)) > 1000  # spread over the ranks


def test_one_process_needs_no_group():
    labels, scores, groups, weights = table(1)
    found = gauc_over_ranks(*(torch.from_numpy(c) for c in (labels, scores, groups, weights)))
    assert found.value == pytest.approx(by_group(labels, scores, groups, weights)[0], abs=1e-9)
