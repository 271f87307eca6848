"""What a sweep plans; that it trains what is missing and nothing else, and tells mean and spread."""

import json
import statistics

import pytest

from home_dist.errors import ConfigError
from home_dist.training.sweep import plan
from tests.factory import make_config, make_data
from tests.ranks import run, settings


def planned(tmp_path, grid, seeds=1, overrides=()):
    return plan(make_config(tmp_path, tmp_path / "data"), grid, seeds, overrides)


def test_every_combination_with_every_seed(tmp_path):
    found = planned(tmp_path, ["model.kind=mmoe,home", "train.lr=0.1,1e-3"], 2, ["train.seed=5"])
    assert len({p.folder for p in found}) == 8
    assert [(p.config.model.kind, p.config.train.lr, p.config.train.seed) for p in found] == [
        (kind, lr, seed) for kind in ("mmoe", "home") for lr in (0.1, 1e-3) for seed in (5, 6)
    ]
    assert found[3].settings == "model.kind=mmoe, train.lr=1e-3"
    assert found[3].folder == tmp_path / "run" / "kind=mmoe,lr=1e-3" / "seed-6"


def test_lists_are_values(tmp_path):
    found = planned(tmp_path, ["model.expert_hidden=[8],[8, 4],[]", "data.exclude=['age'],[]"])
    assert [p.config.model.expert_hidden for p in found[::2]] == [(8,), (8, 4), ()]
    assert len({p.folder for p in found}) == 6


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("model.kind", "--grid model.kind: write it as"),
        ("model.kind=home,,mmoe", "write it as"),
        ("model.kind=home,home", "listed twice"),
        ("model.kind=home,nothing", "model.kind: must be one of"),
        ("model.nothing=1", "unknown key"),
    ],
)
def test_bad_grids_are_refused_before_anything_runs(grid, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        planned(tmp_path, [grid])
    with pytest.raises(ConfigError, match="at least one seed"):
        planned(tmp_path, [], seeds=0)


@pytest.mark.slow
@pytest.mark.distributed
def test_a_sweep_goes_on_where_it_was_stopped(tmp_path):
    config = make_config(tmp_path, make_data(tmp_path / "data", rows=200, files=1))
    few = settings(train__max_steps=2, data__validation="''")
    grid = ["--grid", "model.kind=shared_bottom,mmoe", *few]
    first = run(1, "sweep", config, *grid[:1], "model.kind=shared_bottom", *few)
    assert first.codes == [0], first.text
    made = tmp_path / "run" / "kind=shared_bottom" / "seed-0" / "evaluation.json"
    before = made.stat().st_mtime_ns
    second = run(1, "sweep", config, *grid, "--seeds", "2", timeout=240)
    assert second.codes == [0], second.text
    assert "[1/4] model.kind=shared_bottom, seed 0: complete" in second.text
    assert second.text.count("step 2/2") == 3
    assert made.stat().st_mtime_ns == before
    tree = json.loads((tmp_path / "run" / "sweep.json").read_text())
    values = []
    for seed in range(2):
        measured = json.loads((tmp_path / "run" / "kind=mmoe" / f"seed-{seed}" / "evaluation.json").read_text())["test"]
        values.append(statistics.fmean(m["auc"] for m in measured.values()))
    found = tree["model.kind=mmoe"]["auc"]
    assert found["runs"] == pytest.approx(values)
    assert (found["mean"], found["standard_deviation"]) == pytest.approx((statistics.fmean(values), statistics.stdev(values)))
    assert f"{found['mean']:.4f} ± {found['standard_deviation']:.4f}" in second.text


@pytest.mark.distributed
def test_failed_runs_are_named_and_the_others_go_on(tmp_path):
    config = make_config(tmp_path, make_data(tmp_path / "data", rows=100, files=1))
    few = settings(train__max_steps=1, data__validation="''")
    ended = run(1, "sweep", config, "--grid", "data.exclude=['nothing'],[]", *few)
    assert ended.codes == [6], ended.text
    assert "1 of 2 runs failed" in ended.text
    assert "exit code 2" in ended.text
    assert "step 1/1" in ended.text
