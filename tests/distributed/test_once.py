"""Runs with inputs once per request: the losses and evaluation of the plain layout on one and two ranks, and exact resume."""

import json
import re

import pytest
import torch

from home_dist.schema import Schema, save_schema
from home_dist.training.checkpoint.reading import open_stored
from tests.data.with_shared import ONCE, write_shared
from tests.factory import make_config, make_schema
from tests.ranks import Ended, run_module, settings

pytestmark = pytest.mark.distributed

SIZES = [3, 1, 8, 5, 2, 7, 1, 4, 12, 2] * 12
COMMON = (
    "data.request=request_id embedding.tables.video.sharding=row_wise embedding.tables.tag.sharding=data_parallel "
    "data.test='' train.epochs=1 train.lr=0.001 embedding.dropout=0.1"
)
NAMED = f"data.once_per_request={json.dumps(ONCE)}".replace(" ", "")
RUNS = {
    "din": "train.accumulate=2 train.recompute_experts=true",
    "sim": "sequence.0.kind=sim sequence.0.most=2",
    "dien": "sequence.0.kind=dien",
    "managed": "embedding.tables.user.managed=lru embedding.tables.video.sharding=row_wise",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    schema = make_schema().model_dump(exclude_none=True)
    schema["table"][0]["values"] = {"kind": "hash", "type": "integer"}  # so that `user` can be managed
    save_schema(Schema.model_validate(schema), folder / "schema.toml")
    write_shared(folder / "train", SIZES, 60)
    write_shared(folder / "validation", SIZES[:35], 13, seed=1)
    return folder


def figures(folder) -> dict[str, float]:
    """Losses and AUCs of an evaluation; ranks within requests would jump with float32's rounding."""
    found = {}

    def walk(value, path):
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{path}.{key}")
        elif isinstance(value, float) and path.split(".")[-1] in ("auc", "loss", "logloss"):
            found[path] = value

    walk(json.loads((folder / "evaluation.json").read_text()), "")
    return found


@pytest.mark.parametrize("ranks", [1, 2])
def test_losses_and_evaluation_are_those_of_the_plain_layout(ranks, data, tmp_path):
    config = make_config(tmp_path, data, batch_size=48 // ranks)
    config.write_text(config.read_text().replace("hidden = [8]\n[model]", "[model]"))
    lines = [
        f"{name}{end} {COMMON} {more} {options}" for name, options in RUNS.items() for end, more in (("", ""), ("-once", NAMED))
    ]
    ended = run_module(ranks, "tests.distributed.train_kinds", config, *(re.sub(" +", " ", line) for line in lines))
    _, *parts = re.split(r"^=== ", ended.outputs[0], flags=re.MULTILINE)
    losses = {p.splitlines()[0]: {s: float(x) for s, x in Ended([0], [p]).losses().items()} for p in parts}
    for name in RUNS:
        assert len(losses[name]) > 10
        # At a high rate Adam's first steps, signs of gradients, make more and more of float32's rounding.
        assert losses[name] == pytest.approx(losses[f"{name}-once"], abs=2e-4), name
        one, other = (figures(tmp_path / "run" / folder) for folder in (name, f"{name}-once"))
        assert len(one) >= 3
        assert one == pytest.approx(other, abs=2e-3), name


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_stopped_runs_go_on_bit_for_bit(ranks, data, tmp_path):
    config = make_config(tmp_path, data, batch_size=48 // ranks)
    more = [*settings(checkpoint__every_steps=1, checkpoint__keep_last=100, log__every_steps=5)]
    more += [x for option in [*COMMON.split(), NAMED] for x in ("--set", option)]
    whole, stopped = (
        run_module(ranks, "tests.distributed.stops_ranks", config, name, stops, *more)
        for name, stops in (("whole", ""), ("stopped", "2,5,9"))
    )
    assert stopped.outputs[0].count("stopped after") == 3
    assert stopped.losses() == whole.losses()
    folders = [sorted((tmp_path / "run" / name / "checkpoints").glob("step-*")) for name in ("whole", "stopped")]
    assert [f.name for f in folders[0]] == [f.name for f in folders[1]]
    (expected, _), (found, _) = (open_stored(paths[-1]) for paths in folders)
    assert expected.tensors.keys() == found.tensors.keys()
    assert [n for n in expected.tensors if not torch.equal(expected.whole(n), found.whole(n))] == []
