"""Losses over requests against loops over each request's samples."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from home_dist.config import RunConfig
from home_dist.objectives import Objectives
from home_dist.objectives.within import RequestsOfBatch, jrc, listwise, pairwise
from home_dist.schema import TaskSpec
from tests.objectives import reference

TASKS = 2


def drawn(sizes: list[int], seed: int) -> tuple[np.ndarray, ...]:
    draw, rows = np.random.default_rng(seed), sum(sizes)
    keys = np.repeat(draw.permutation(len(sizes)), sizes)
    z = draw.normal(0, 3, (rows, TASKS, 2))
    y = draw.integers(0, 2, (rows, TASKS)).astype(float)
    return keys, z, y, draw.choice([0.0, 1.0, 0.5, 2.0], (rows, TASKS))


def by_request(sizes: list[int], z: np.ndarray, y: np.ndarray, w: np.ndarray, kind: str) -> np.ndarray:
    """(B, TASKS), each sample's loss."""
    out, first = np.zeros(y.shape), 0
    for size in sizes:
        rows = slice(first, first + size)
        for k in range(TASKS):
            if kind == "jrc":
                out[rows, k] = reference.jrc(z[rows, k].tolist(), y[rows, k].tolist(), w[rows, k].tolist())
            else:
                loss = reference.pairwise if kind == "pairwise" else reference.listwise
                out[rows, k] = loss(z[rows, k, 0].tolist(), y[rows, k].tolist(), w[rows, k].tolist())
        first += size
    return out


def computed(keys: np.ndarray, z: torch.Tensor, y: np.ndarray, w: np.ndarray, kind: str) -> torch.Tensor:
    requests, labels, weights = RequestsOfBatch.of(torch.from_numpy(keys)), torch.from_numpy(y), torch.from_numpy(w)
    if kind == "jrc":
        return jrc(z, labels, weights, requests)
    return (pairwise if kind == "pairwise" else listwise)(z[..., 0], labels, weights, requests)


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    seed=st.integers(0, 999),
    kind=st.sampled_from(["pairwise", "listwise", "jrc"]),
)
@settings(max_examples=50, deadline=None)
def test_against_loops_with_gradients(sizes, seed, kind):
    keys, z, y, w = drawn(sizes, seed)
    leaf = torch.from_numpy(z).requires_grad_()
    losses = computed(keys, leaf, y, w, kind)
    counted = w > 0  # a sample without a label may get any finite loss: its weight takes it away
    wanted = by_request(sizes, z, y, w, kind)
    assert torch.isfinite(losses).all()
    np.testing.assert_allclose(losses.detach().numpy()[counted], wanted[counted], rtol=1e-9, atol=1e-12)
    [gradient] = torch.autograd.grad((losses * torch.from_numpy(w)).sum(), leaf)
    step = 1e-6
    for place in np.ndindex(z.shape):
        sides = []
        for sign in (-1, 1):
            moved = z.copy()
            moved[place] += sign * step
            sides.append((by_request(sizes, moved, y, w, kind) * w).sum())
        assert gradient[place].item() == pytest.approx((sides[1] - sides[0]) / (2 * step), rel=1e-4, abs=1e-6)


def test_graded_labels_pair_by_order():
    keys = torch.zeros(3, dtype=torch.int64)
    z = torch.tensor([[0.3], [1.0], [-0.5]], dtype=torch.float64)
    y = torch.tensor([[5.0], [2.0], [2.0]], dtype=torch.float64)
    ones = torch.ones_like(z)
    wanted = reference.pairwise(z[:, 0].tolist(), y[:, 0].tolist(), [1.0] * 3)
    assert pairwise(z, y, ones, RequestsOfBatch.of(keys)).flatten().tolist() == pytest.approx([wanted] * 3)


@pytest.mark.parametrize("within", ["pairwise", "listwise", "jrc"])
def test_added_to_the_loss_of_single_samples(within):
    section = {"kind": "binary", "within": within, "within_weight": 0.25}
    trees = [
        {"run": {"dir": "r"}, "data": {"path": "d", "request": "r"}, "objective": {"like": s}}
        for s in (section, {"kind": "binary"})
    ]
    tasks = [TaskSpec(name="like", group="g", column="like")]
    both, alone = (Objectives(tasks, RunConfig.model_validate(tree)).double() for tree in trees)
    keys, z, y, w = drawn([3, 1, 4], 5)
    logits = torch.from_numpy(z[:, 0] if within == "jrc" else z[:, 0, :1])
    labels, weights, no_durations = torch.from_numpy(y[:, :1]), torch.from_numpy(w[:, :1]), torch.ones(8, 0)
    one = logits[:, 1:] - logits[:, :1] if within == "jrc" else logits
    total = both.losses(logits, labels, weights, no_durations, torch.from_numpy(keys))
    pointwise = alone.losses(one, labels, weights, no_durations)
    extra = by_request([3, 1, 4], z, y, w, within)[:, :1]
    counted = w[:, :1] > 0
    np.testing.assert_allclose((total - pointwise).numpy()[counted], 0.25 * extra[counted], rtol=1e-9, atol=1e-12)
    assert torch.equal(both.scores(logits, no_durations), one)
    assert torch.equal(both.losses(logits, labels, weights, no_durations), pointwise)  # as in evaluation
