"""A run whose ranks share a pool of experts is the run in which every rank holds it: losses, parameters, AdamW's state,
averages, figures of the experts. Its checkpoints are loaded by any number of ranks."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from home_dist.insight.store import InsightStore
from home_dist.training.checkpoint.pieces import Stored
from home_dist.training.checkpoint.reading import open_stored
from tests.factory import make_config, make_data
from tests.ranks import Ended, run, settings

pytestmark = [pytest.mark.distributed]

SMES = settings(
    model__kind="smes",
    model__experts=7,
    model__expert_norm="true",
    model__feature_gate="true",
    train__clip_norm=0.05,  # of every step
    train__accumulate=2,
    train__ema=0.9,
    checkpoint__every_steps=2,
    checkpoint__keep_last=100,
    insight__every_steps=3,
)


def trained(ranks: int, config: Path, folder: Path, holders: int, *more: str) -> Ended:
    own = settings(run__dir=folder, distributed__expert_parallel=holders)
    ended = run(ranks, "train", config, *SMES, *own, *more, timeout=300)
    assert ended.codes == [0] * ranks, ended.text
    return ended


def newest(folder: Path) -> Stored:
    return open_stored(max((folder / "checkpoints").glob("step-*")))[0]


def assert_close(found: Stored, expected: Stored, tolerance: float) -> None:
    assert found.tensors.keys() == expected.tensors.keys()
    for name in expected.tensors:
        one, two = found.whole(name).double(), expected.whole(name).double()
        assert one.shape == two.shape, name
        assert float((one - two).abs().max()) <= tolerance * max(1.0, float(two.abs().max())), name


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("parallel")
    return make_config(folder, make_data(folder / "data", rows=220, files=2, row_group=60), batch_size=16)


@pytest.fixture(scope="module")
def shared(config) -> tuple[Path, Ended]:
    """A run on 4 ranks of which 2 share a pool."""
    return config.parent / "two", trained(4, config, config.parent / "two", 2)


def figures(folder: Path) -> dict[str, np.ndarray]:
    return InsightStore(folder / "insight").records()[-1].figures


def test_the_same_as_whole_pools(config, shared):
    folder = config.parent
    whole = trained(4, config, folder / "one", 1)
    all_share = trained(4, config, folder / "four", 4)
    assert all_share.losses() == shared[1].losses() == whole.losses()
    expected, experts = newest(folder / "one"), figures(folder / "one")
    assert expected.shape("dense/head.model.bank.weights.0")[0] == 7
    evaluations = [json.loads((folder / n / "evaluation.json").read_text()) for n in ("one", "two", "four")]
    log_loss = [e["test"]["like"]["log_loss"] for e in evaluations]
    for n, name in enumerate(("two", "four"), 1):
        assert_close(newest(folder / name), expected, 2e-5)
        assert log_loss[n] == pytest.approx(log_loss[0], rel=1e-5)
        found = figures(folder / name)
        assert found.keys() == experts.keys()
        for figure in ("0.mean", "0.std", "0.contribution", "0.load", "0.used"):
            if figure in experts:
                np.testing.assert_allclose(found[figure], experts[figure], rtol=1e-3, atol=1e-5)
        # A gradient of all ranks' samples is shorter than the mean of the ranks' own.
        assert (found["0.gradient"] > 0).any()
        assert (found["0.gradient"] <= experts["0.gradient"] * 1.001).all()


def test_other_numbers_of_ranks_go_on(config, shared, tmp_path):
    """From 4 ranks to 2 that share the pool, and to 1 that has it: as whole pools go on from the same checkpoint."""
    source = shared[0]
    for name in ("sharing", "whole", "one"):
        shutil.copytree(source, tmp_path / name)
        for path in sorted((tmp_path / name / "checkpoints").glob("step-*"))[2:]:
            shutil.rmtree(path)
        (tmp_path / name / "evaluation.json").unlink()
    ended = [trained(2, config, tmp_path / "sharing", 2), trained(2, config, tmp_path / "whole", 1)]
    assert ended[0].losses() == ended[1].losses()
    assert "step-00000004" in ended[0].outputs[0]
    assert_close(newest(tmp_path / "sharing"), newest(tmp_path / "whole"), 2e-5)
    assert trained(1, config, tmp_path / "one", 4).losses()
    shown = [run(ranks, "evaluate", source) for ranks in (1, 4)]
    assert [e.codes for e in shown] == [[0], [0] * 4], shown[0].text + shown[1].text
    tables = [[line for line in e.outputs[0].splitlines() if line.startswith("│")] for e in shown]
    assert len(tables[0]) >= 8
    assert tables[0] == tables[1]


def test_a_model_without_a_pool_is_refused(config, tmp_path):
    ended = run(2, "train", config, *settings(run__dir=tmp_path / "run", distributed__expert_parallel=2))
    assert ended.codes == [2, 2]
    assert "distributed.expert_parallel = 2: model.kind = 'home' has no pool of experts to share" in ended.text
