"""Metrics of rows that ranks share, over 1 to 4 real processes: those of all rows in one process, with bounded parts."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from home_dist.errors import DataError
from home_dist.metrics.evaluation import TaskMetrics, evaluate_classes, evaluate_number, evaluate_task
from home_dist.metrics.over_ranks import OverRanks
from tests.on_ranks import on_ranks

ROWS = 3000
BOUNDS = {1: [0], 2: [0, 700], 3: [0, 0, 900], 4: [0, 200, 200, 2999]}
"""Where each rank's rows begin: parts are uneven, and one is empty."""


def tables() -> Iterator[tuple[str, str, np.ndarray, np.ndarray, np.ndarray]]:
    """Name, family, labels, weights and scores of all rows."""
    random = np.random.default_rng(0)
    weights = random.choice([0.0, 1.0, 0.3, 2.5], ROWS)
    scores = random.normal(size=ROWS).astype(np.float32)
    yes = (random.random(ROWS) < 1 / (1 + np.exp(-scores))).astype(np.float32)
    seconds = (random.exponential(20, ROWS) * (1 + yes)).astype(np.float32)
    one = np.ones(ROWS)
    for name, of in (
        ("spread", scores),
        ("ties", scores.round(1)),
        ("two levels", (scores > 1).astype(np.float32)),
        ("level", np.zeros(ROWS, np.float32)),
        ("infinite", np.where(scores > 2, np.inf, np.where(scores < -2, -np.inf, scores))),
    ):
        yield name, "binary", yes, weights, of
        yield f"{name}, weight 1", "binary", yes, one, of
        if name != "infinite":
            yield name, "number", seconds, weights, of * 10
            yield f"{name}, whole seconds", "number", seconds.round(), one, of * 10
            yield f"{name}, half 0", "number", seconds * yes, weights, of * 10
    yield "one class", "binary", yes * 0, weights, scores
    yield "one label", "number", yes * 0 + 4, weights, scores
    yield "no label", "binary", yes, one * 0, scores
    yield "no label", "number", seconds, one * 0, scores
    only = one * (np.arange(ROWS) == 5)
    yield "one row", "binary", yes, only, scores
    yield "one row", "number", seconds, only, scores
    logits = random.normal(size=(ROWS, 4)).astype(np.float32)
    yield "classes", "class", logits.argmax(1).astype(np.float32) * yes, weights, logits
    yield "ties", "class", (3 * yes).astype(np.float32), weights, logits.round()
    yield "no label", "class", yes, one * 0, logits


def measured(family: str, labels, weights, scores, over: OverRanks) -> TaskMetrics:
    if family == "binary":
        return evaluate_task("task", labels, weights, scores, logits=True, over=over)
    if family == "number":
        return evaluate_number("task", labels, weights, scores, over=over)
    return evaluate_classes("task", labels, weights, scores, over=over)


def _same(found: TaskMetrics, expected: TaskMetrics, name: str) -> None:
    for metric, value in vars(expected).items():
        if metric == "curve":
            assert (found.curve is None) == (value is None)
            for column in () if value is None else vars(value):
                np.testing.assert_allclose(getattr(found.curve, column), getattr(value, column), rtol=1e-12, atol=1e-12)
        elif isinstance(value, float):
            close = 1e-13 if metric == "calibration_error" else 0.0  # a difference of shares
            assert getattr(found, metric) == pytest.approx(value, rel=1e-12, abs=close, nan_ok=True), (name, metric)
        else:
            assert getattr(found, metric) == value, (name, metric)


def _body(rank: int, world: int, folder: Path) -> None:
    over, bounds = OverRanks.here(), [*BOUNDS[world], ROWS]
    assert (over.rank, over.world) == (rank, world)
    here = slice(bounds[rank], bounds[rank + 1])
    for name, family, *columns in tables():
        with np.errstate(invalid="raise" if name != "infinite" else "ignore"):
            whole = measured(family, *columns, OverRanks())
        _same(measured(family, *(c[here] for c in columns), over), whole, f"{name}, {family}")
    labels, scores = np.zeros(4), np.zeros(4)
    labels[0] = 7 if rank == world - 1 else 0  # one row of one rank; all ranks end
    with pytest.raises(DataError, match=r"1 of 4 labels are neither 0 nor 1|another rank, "):
        evaluate_task("like", labels, np.ones(4), scores, over=over)
    assert over.sums(rank, 1) == [world * (world - 1) / 2, world]  # ranks are still in step


@pytest.mark.distributed
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_equal_to_one_process(ranks, tmp_path: Path):
    on_ranks(_body, ranks, tmp_path)


def _counts(rank: int, world: int, folder: Path) -> None:
    most = 0
    exchanged = OverRanks.exchanged

    def counting(self, ends, *columns):
        nonlocal most
        counts, received = exchanged(self, ends, *columns)
        most = max(most, len(received[0]))
        return counts, received

    OverRanks.exchanged = counting  # type: ignore[method-assign]
    over, found = OverRanks.here(), {}
    for name, family, *columns in tables():
        most = 0
        measured(family, *(c[rank::world] for c in columns), over)
        found[f"{name}, {family}"] = most
    (folder / f"{rank}.json").write_text(json.dumps(found))


@pytest.mark.distributed
def test_no_rank_receives_more_than_its_share(tmp_path: Path):
    on_ranks(_counts, 3, tmp_path)
    parts = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    for name in parts[0]:
        received = [part[name] for part in parts]
        assert max(received) <= ROWS / 3 * 1.1, name
    assert sum(part["spread, weight 1, binary"] for part in parts) == ROWS
    assert sum(part["two levels, binary"] for part in parts) == 6  # each rank sends two levels


def _pieces(rank: int, world: int, folder: Path) -> None:
    over = OverRanks.here()
    rows = np.arange(20 * rank).reshape(-1, 2)
    whole = np.concatenate([np.arange(20 * r).reshape(-1, 2) for r in range(world)])
    pieces = list(over.pieces_on_first(len(rows), rows.__getitem__, 3))
    if rank:
        assert pieces == []
    else:
        assert max(map(len, pieces)) == 3
        np.testing.assert_array_equal(np.concatenate(pieces), whole)


@pytest.mark.distributed
def test_the_first_rank_reads_all_rows_in_pieces(tmp_path: Path):
    on_ranks(_pieces, 3, tmp_path)


def _in_pieces(rank: int, world: int, folder: Path) -> None:
    import home_dist.metrics.over_ranks as module

    over, random = OverRanks.here(), np.random.default_rng(rank)
    ends = np.cumsum(random.integers(0, 40, world))
    columns = random.normal(size=ends[-1]), random.integers(0, 9, ends[-1]), random.random(ends[-1]) < 0.5
    at_once = over.exchanged(ends, *columns)
    module._PIECE = 4 * world
    in_pieces = over.exchanged(ends, *columns)
    np.testing.assert_array_equal(at_once[0], in_pieces[0])
    for one, other in zip(at_once[1], in_pieces[1], strict=True):
        np.testing.assert_array_equal(one, other)
    sums = over.totals(columns[0].sum(keepdims=True)), over.totals(in_pieces[1][0].sum(keepdims=True))
    assert sums[0][0] == pytest.approx(sums[1][0])


@pytest.mark.distributed
def test_large_exchanges_are_made_in_pieces(tmp_path: Path):
    on_ranks(_in_pieces, 3, tmp_path)
