"""An evaluation of rows that ranks share, over 2 and 4 real processes: that of one process, with the same kept scores."""

import functools
import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from home_dist.config import MetricsSection
from home_dist.distributed.ranks import OtherRankFailed
from home_dist.errors import UserError
from home_dist.evaluation.measure import measured
from home_dist.evaluation.record import record
from home_dist.evaluation.scores import Families, Scored
from home_dist.evaluation.slices import _turns
from home_dist.evaluation.split import Evaluation, evaluate
from home_dist.ids.no_group import NO_GROUP
from home_dist.metrics import OverRanks, grouped_xauc, within_requests
from home_dist.metrics import gauc as gauc_of_rows
from tests.on_ranks import on_ranks

ROWS, BATCH = 2000, 64
TASKS = ["like", "seconds", "stars", "broken", "never"]
FAMILIES = SimpleNamespace(measured=("binary", "number", "class", "binary", "binary"), predictions=(1, 1, 3, 1, 1))
BOUNDS = {2: [0, 1500], 4: [0, 500, 500, 1999]}
"""Where each rank's rows begin; a part is empty."""


@functools.cache
def columns() -> dict[str, torch.Tensor]:
    random = np.random.default_rng(0)
    scores = random.normal(size=(ROWS, 7)).round(2).astype(np.float32)
    scores[:, 1] = np.exp(scores[:, 1]) * 10
    scores[1700, 5] = np.nan
    labels = (random.random((ROWS, 5)) < 1 / (1 + np.exp(-scores[:, [0, 0, 0, 6, 6]]))).astype(np.float32)
    labels[:, 1] *= random.exponential(20, ROWS).round(1)
    labels[:, 2] = scores[:, 2:5].argmax(1) * labels[:, 2]
    weights = random.choice([0.0, 1.0, 0.3], (ROWS, 5)).astype(np.float32)
    weights[1700, 3], weights[:, 4] = 1, 0
    users = np.append(random.integers(-(2**62), 2**62, 150), NO_GROUP)[random.integers(0, 151, ROWS)]
    slices = np.stack([random.geometric(0.5, ROWS), random.integers(0, 40, ROWS), np.arange(ROWS) // 1900], 1)
    requests = np.append(np.arange(1, 400), NO_GROUP)[random.integers(0, 400, ROWS)]
    arrays = {"scores": scores, "labels": labels, "weights": weights, "groups": users, "small": slices, "requests": requests}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


class _Given(nn.Module):
    def forward(self, batch):
        return None, SimpleNamespace(scores=batch.scores)


def _reader(rows: slice) -> SimpleNamespace:
    """Batches of these rows, each with a row of padding."""

    def epoch(_):
        for begin in range(rows.start, rows.stop, BATCH):
            chosen = torch.tensor([*range(begin, min(begin + BATCH, rows.stop)), 0])
            batch = SimpleNamespace(**{name: column[chosen] for name, column in columns().items()})
            batch.mask = torch.ones(len(chosen))
            batch.mask[-1] = 0
            batch.to = lambda _, batch=batch: batch
            yield batch

    return SimpleNamespace(epoch=epoch, reads_requests=True)


def evaluated(rank: int, world: int, rows: slice, keep: int = ROWS) -> Evaluation:
    ranks = SimpleNamespace(device="cpu", rank=rank, world_size=world)
    schema = SimpleNamespace(task=[SimpleNamespace(name=task) for task in TASKS], group_column="user", table=[])
    layout = SimpleNamespace(at=lambda _: [SimpleNamespace(key=key) for key in ("tab", "age", "late")], features=())
    config = SimpleNamespace(metrics=MetricsSection(slices=["tab", "age", "late"], slice_rows=50, keep_scores=keep))
    built = SimpleNamespace(model=_Given(), objectives=FAMILIES)
    return evaluate(built, _reader(rows), schema, layout, config, ranks)


def _numbers(tree) -> list:
    """The leaves of a tree of JSON, with keys."""
    if isinstance(tree, dict):
        return [leaf for key, value in tree.items() for leaf in (key, *_numbers(value))]
    return [leaf for value in tree for leaf in _numbers(value)] if isinstance(tree, list) else [tree]


def _same(found, expected) -> None:
    for one, other in zip(_numbers(found), _numbers(expected), strict=True):
        assert one == (pytest.approx(other, rel=1e-12, abs=1e-13, nan_ok=True) if isinstance(other, float) else other)


def _body(rank: int, world: int, folder: Path) -> None:
    bounds = [*BOUNDS[world], ROWS]
    found = evaluated(rank, world, slice(bounds[rank], bounds[rank + 1]))
    whole = pickle.loads((folder / "alone.pickle").read_bytes())
    _same(found.to_json(), whole.to_json())
    _same(found.calibration_to_json(), whole.calibration_to_json())
    assert found.notes == whole.notes
    assert len(found.notes) == 2
    assert [(s.feature, s.value) for s in found.slices] == [(s.feature, s.value) for s in whole.slices]
    _same([s.to_json() for s in found.slices], [s.to_json() for s in whole.slices])
    assert len(found.scored.labels) == bounds[rank + 1] - bounds[rank]
    record(folder / "evaluation.json", folder / "scores", {"test": found}, 1, 1, ROWS)
    if rank == 0:
        arrays = [np.load(folder / place / "test.npz") for place in ("scores", "alone")]
        assert list(arrays[0]) == list(arrays[1])
        for name in arrays[0]:
            assert arrays[0][name].dtype == arrays[1][name].dtype
            np.testing.assert_array_equal(arrays[0][name], arrays[1][name])
        assert json.loads((folder / "evaluation.json").read_text())["test"]["like"]["samples"] > 0


@pytest.mark.distributed
@pytest.mark.parametrize("ranks", [2, 4])
def test_equal_to_one_process(ranks, tmp_path: Path):
    alone = evaluated(0, 1, slice(0, ROWS))
    record(tmp_path / "evaluation.json", tmp_path / "alone", {"test": alone}, 1, 1, ROWS)
    (tmp_path / "alone.pickle").write_bytes(pickle.dumps(alone))
    on_ranks(_body, ranks, tmp_path)


def test_one_process_measures_the_rows():
    found, rows = evaluated(0, 1, slice(0, ROWS)), {name: column.numpy() for name, column in columns().items()}
    tasks = {m.task: m for m in found.tasks}
    like = rows["labels"][:, 0], rows["scores"][:, 0], rows["groups"], rows["weights"][:, 0]
    seconds = rows["labels"][:, 1], rows["scores"][:, 1], rows["groups"], rows["weights"][:, 1]
    assert tasks["like"].gauc == gauc_of_rows(*like).value
    assert tasks["seconds"].user_xauc == grouped_xauc(*seconds).value
    requests = within_requests(rows["labels"][:, 0], rows["scores"][:, 0], rows["requests"], rows["weights"][:, 0] > 0)
    assert tasks["like"].ndcg == pytest.approx(requests.ndcg, rel=1e-12)
    assert np.isnan([tasks["broken"].auc, tasks["never"].auc]).all()
    assert found.notes[0].startswith("task 'broken': 1 of ")


def test_a_split_of_more_rows_than_are_kept_leaves_none():
    assert evaluated(0, 1, slice(0, ROWS), keep=ROWS - 1).scored is None


def test_slices_are_measured_in_turns_of_bounded_size():
    random = np.random.default_rng(0)
    sizes = dict(enumerate(random.integers(1, 100, 300).tolist()))
    turns = list(_turns(sizes, 100, 3))
    assert sorted(value for turn in turns for values in turn for value in values) == sorted(sizes)
    held = [sum(sizes[value] for value in values) for turn in turns for values in turn]
    assert max(held) <= 100
    assert len(turns) <= 2 * sum(sizes.values()) / 300 + 1
    assert list(_turns({}, 5, 2)) == []


def _full_disk(rank: int, world: int, folder: Path) -> None:
    """The first rank cannot write one of two splits, or the figures: it says so, and the others, which send their rows, end
    with it."""
    ones, keys = np.ones((200_000, 1)), np.arange(200_000)
    scored = Scored(ones, ones, ones, keys, keys.reshape(-1, 1), Families(("binary",), (1,)))
    evaluation = Evaluation(measured(scored, ["like"]), [], scored, False, [])
    splits = {"validation": evaluation, "test": evaluation}
    if rank == 0:
        (folder / "a file").write_text("where a folder should be")
        (folder / "evaluation.json").mkdir()
    for scores, keep, wrong in (("a file/scores", 1_000_000, "validation.npz"), ("scores", 1_000_000, "evaluation.json")):
        told = f"{wrong}: the evaluation could not be written: .* make room" if rank == 0 else ""
        with pytest.raises(UserError if rank == 0 else OtherRankFailed, match=told):
            record(folder / "evaluation.json", folder / scores, splits, 1, 1, keep)
        assert OverRanks.here().sums(1) == [world]


@pytest.mark.distributed
def test_an_error_of_the_first_rank_holds_up_no_other(tmp_path: Path):
    on_ranks(_full_disk, 2, tmp_path)


def _counts(rank: int, world: int, folder: Path) -> None:
    received, exchanged = [], OverRanks.exchanged

    def counting(self, ends, *columns):
        counts, came = exchanged(self, ends, *columns)
        received.append(len(came[0]))
        return counts, came

    OverRanks.exchanged = counting  # type: ignore[method-assign]
    bounds = [ROWS * r // world for r in range(world + 1)]
    evaluated(rank, world, slice(bounds[rank], bounds[rank + 1]))
    (folder / f"{rank}.json").write_text(json.dumps(received))


@pytest.mark.distributed
def test_no_rank_receives_much_more_than_its_share(tmp_path: Path):
    """Users and requests are hashed to ranks, so that shares of these few are uneven; half of all users' rows would be 1000."""
    on_ranks(_counts, 4, tmp_path)
    received = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(4)]
    assert len({len(of) for of in received}) == 1
    assert max(max(of) for of in received) < 1.4 * ROWS / 4
