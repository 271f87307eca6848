"""A run stopped at random steps, again and again, is the run that was never stopped: losses, parameters, metrics, all bits."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from home_dist.insight.run_files import CURVES
from home_dist.insight.store import InsightStore
from home_dist.training.checkpoint.reading import open_stored
from home_dist.training.checkpoint.state import TrainState
from tests.factory import make_config, make_data
from tests.ranks import Ended, run_module, settings

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

# Progress lines less often than checkpoints, so that the sums of an interval must come back too.
OPTIONS = settings(
    checkpoint__every_steps=1,
    checkpoint__keep_last=100,
    checkpoint__best="gauc",
    embedding__dropout=0.1,
    log__every_steps=5,
    insight__every_steps=4,
    embedding__tables__video__sharding="row_wise",
    embedding__tables__tag__sharding="data_parallel",
)


POOL = settings(
    model__kind="smes",
    model__experts=5,
    model__expert_norm="true",
    model__dropout=0.1,
    train__clip_norm=0.1,
    distributed__expert_parallel=2,
)


def trained(ranks: int, config: Path, name: str, stops: list[int], more: list[str]) -> Ended:
    return run_module(ranks, "tests.distributed.stops_ranks", config, name, ",".join(map(str, stops)), *OPTIONS, *more)


def told(state: TrainState) -> str:
    """A resumed run writes out what its epoch was dealt, which the other one need not."""
    return json.dumps(replace(state, position=replace(state.position, dealt=None)).to_json())


@pytest.mark.parametrize(
    ("ranks", "seed", "more"), [(2, 0, []), (1, 1, []), (3, 2, []), (2, 3, POOL)], ids=["2", "1", "3", "2 that share a pool"]
)
def test_stopped_at_random_steps(ranks, seed, more, tmp_path):
    data = make_data(tmp_path / "data", rows=130 * ranks, files=3, row_group=60)
    config = make_config(tmp_path, data, batch_size=32)
    whole = trained(ranks, config, "whole", [], more)
    steps = [int(p.name.split("-")[1]) for p in (tmp_path / "run" / "whole" / "checkpoints").glob("step-*")]
    assert len(steps) == max(steps) == 10
    stops = sorted(random.Random(seed).sample(range(1, max(steps)), 3))
    stopped = trained(ranks, config, "stopped", stops, more)
    assert [f"stopped after {s}" in stopped.outputs[0] for s in stops] == [True] * len(stops)
    assert stopped.losses() == whole.losses()
    folders = [tmp_path / "run" / name for name in ("whole", "stopped")]
    for step in range(1, max(steps) + 1):
        (expected, record), (found, again) = (open_stored(f / "checkpoints" / f"step-{step:08d}") for f in folders)
        assert told(record.state) == told(again.state)
        assert expected.tensors.keys() == found.tensors.keys()
        assert [n for n in expected.tensors if not torch.equal(expected.whole(n), found.whole(n))] == []
    assert expected.shape("tables/tag/momentum1") == (1, 1500)
    assert int(expected.whole("tables/tag/steps")) == max(steps)
    assert float(expected.whole("tables/video/momentum1").max()) > 0
    curves = [InsightStore(f / "insight").lines(CURVES) for f in folders]
    told_of = ("step", "task_losses", "auxiliary", "running")
    first, again = ([[line[name] for name in told_of] for line in lines] for lines in curves)
    assert str(first) == str(again)  # as text, in which NaN equals NaN
    assert first[0][3]["auc"].keys() == {"like", "follow", "watch"}
    evaluations = [json.loads((f / "evaluation.json").read_text()) for f in folders]
    assert evaluations[0] == evaluations[1]
