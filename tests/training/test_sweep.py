"""What a sweep plans; that it trains what is missing and nothing else, and tells mean and spread."""

import itertools
import json
import shutil
import statistics

import pytest
from typer.testing import CliRunner

from home_dist.cli import app
from home_dist.config import save_config
from home_dist.errors import ConfigError
from home_dist.schema import save_schema
from home_dist.screen import Screen
from home_dist.training.sweep import LocalRuns, SweepFailed, plan, sweep
from tests.factory import make_config, make_data, make_schema
from tests.insight.scored_runs import scores_of, write_scores
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


def test_values_that_differ_before_the_point_are_told_apart(tmp_path):
    found = planned(tmp_path, ["train.lr=0.5,1.5"])
    assert [p.folder.parent.name for p in found] == ["lr=0.5", "lr=1.5"]


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
    with pytest.raises(ConfigError, match=r"leave \[publish\] out"):
        planned(tmp_path, [], overrides=["publish.to=/versions"])


def test_names_are_what_differs(tmp_path):
    names = lambda *args: [p.name for p in planned(tmp_path, *args)]  # noqa: E731
    assert names(["model.kind=mmoe,ple"]) == ["model.kind=mmoe", "model.kind=ple"]
    assert names(["model.kind=ple", "train.lr=0.1,0.2"], 2)[1:3] == ["train.lr=0.1, seed 1", "train.lr=0.2, seed 0"]
    assert names(["model.kind=ple"], 2) == names([], 2) == ["seed 0", "seed 1"]
    assert names([]) == names(["model.kind=ple"]) == ["as configured"]
    [alone] = planned(tmp_path, ["model.kind=ple"])
    assert alone.folder == tmp_path / "run" / "kind=ple" / "seed-0"  # as before there were others: it is found again


def ended_run(planned_run, strengths) -> None:
    """The run's folder as after its training. strengths: of its scores, by split."""
    folder, seed = planned_run.folder, planned_run.config.train.seed
    folder.mkdir(parents=True)
    save_config(planned_run.config, folder / "config.toml")
    save_schema(make_schema(), folder / "schema.toml")
    write_scores(folder, {split: scores_of(split, s, seed) for split, s in strengths.items()})


def command(*arguments: object) -> str:
    ended = CliRunner().invoke(app, ["sweep", *map(str, arguments)])
    assert ended.exit_code == 0, ended.output
    return ended.output


def test_the_command_ranks_on_validation_by_a_measure(tmp_path):
    grid, config = ["model.kind=mmoe,ple"], make_config(tmp_path, make_data(tmp_path / "data", rows=8, files=1))
    for run_of_sweep in plan(config, grid, 2, []):
        mmoe = run_of_sweep.config.model.kind == "mmoe"
        ended_run(run_of_sweep, {"validation": 0.4 if mmoe else 1.0, "test": 1.0 if mmoe else 0.4})
    text = command(config, "--grid", *grid, "--seeds", 2)
    assert "[3/4] model.kind=ple, seed 0: complete" in text
    assert "validation, ranked by mean AUC" in text
    assert "best on validation by mean AUC: model.kind=ple\n  ahead of: model.kind=mmoe" in text
    tree = json.loads((tmp_path / "run" / "sweep.json").read_text())
    assert (tree["best"], tree["chosen_on"], tree["by"]) == ("model.kind=ple", "validation", "auc")
    assert tree["differences"]["test"]["model.kind=mmoe"]["auc"]["high"] < 0
    assert "ranked by mean GAUC" in command(config, "--grid", *grid, "--by", "gauc")
    text = command(config, "--grid", *grid, "--by", "log_loss")
    assert json.loads((tmp_path / "run" / "sweep.json").read_text())["by"] == "log_loss"
    assert "±" not in text
    assert "seed 0" not in text


def test_gauc_is_refused_before_anything_runs_where_there_are_no_users(tmp_path):
    config = make_config(tmp_path, make_data(tmp_path / "data", rows=8, files=1))
    save_schema(make_schema().model_copy(update={"group_column": None}), tmp_path / "data" / "schema.toml")
    with pytest.raises(ConfigError, match="has no group_column, so that no run has a GAUC"):
        sweep(config, plan(config, [], 1, []), LocalRuns(1), "gauc", Screen(True))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.distributed
def test_a_sweep_goes_on_where_it_was_stopped_and_ranks_on_validation(tmp_path):
    config = make_config(tmp_path, make_data(tmp_path / "data", rows=400, files=1))
    few = settings(train__max_steps=2)
    grid = ["--grid", "model.kind=shared_bottom,mmoe", *few]
    first = run(1, "sweep", config, *grid[:1], "model.kind=shared_bottom", *few)
    assert first.codes == [0], first.text
    assert "[1/1] as configured: " in first.text
    made = tmp_path / "run" / "kind=shared_bottom" / "seed-0" / "evaluation.json"
    before = made.stat().st_mtime_ns
    second = run(1, "sweep", config, *grid, "--seeds", "2", timeout=240)
    assert second.codes == [0], second.text
    assert "[1/4] model.kind=shared_bottom, seed 0: complete" in second.text
    assert second.text.count("step 2/2") == 3
    assert made.stat().st_mtime_ns == before
    tree = json.loads((tmp_path / "run" / "sweep.json").read_text())
    assert next(iter(tree["settings"])) == tree["best"]
    for name, split in itertools.product(("shared_bottom", "mmoe"), ("validation", "test")):
        values = []
        for seed in range(2):
            measured = json.loads((tmp_path / "run" / f"kind={name}" / f"seed-{seed}" / "evaluation.json").read_text())[split]
            values.append(statistics.fmean(m["auc"] for m in measured.values()))
        found = tree["settings"][f"model.kind={name}"][split]["auc"]
        assert found["runs"] == pytest.approx(values)
        assert (found["mean"], found["standard_deviation"]) == pytest.approx(
            (statistics.fmean(values), statistics.stdev(values))
        )
        assert f"{found['mean']:.4f} ± {found['standard_deviation']:.4f}" in second.text
    [difference] = tree["differences"]["validation"].values()
    assert difference["no_interval"] is None
    best, other = (tree["settings"][name]["validation"]["auc"]["mean"] for name in tree["settings"])
    assert difference["auc"]["estimate"] == pytest.approx(best - other, abs=1e-6)
    assert difference["auc"]["low"] <= difference["auc"]["estimate"] <= difference["auc"]["high"]
    assert best >= other
    # Seed 1 of both becomes a copy of seed 0, and the setting that is better on validation then becomes the worse one on test.
    sweeps = {name: tmp_path / "run" / f"kind={name}" for name in ("shared_bottom", "mmoe")}
    folders = {name: [folder / f"seed-{seed}" for seed in range(2)] for name, folder in sweeps.items()}
    evaluated = {name: json.loads((of_seed / "evaluation.json").read_text()) for name, (of_seed, _) in folders.items()}
    better = max(evaluated, key=lambda name: statistics.fmean(m["auc"] for m in evaluated[name]["validation"].values()))
    for name, (one, two) in folders.items():
        write_scores(one, {"test": scores_of("test", 0.1 if name == better else 3.0, 0)})
        figures = evaluated[name] | {"test": json.loads((one / "evaluation.json").read_text())["test"]}
        (one / "evaluation.json").write_text(json.dumps(figures))
        for part in ("evaluation.json", "scores/validation.npz", "scores/test.npz"):
            shutil.copy(one / part, two / part)
    third = run(1, "sweep", config, *grid, "--seeds", "2", timeout=240)
    assert third.codes == [0], third.text
    doctored = json.loads((tmp_path / "run" / "sweep.json").read_text())
    assert doctored["best"] == f"model.kind={better}"
    first_on_test, second_on_test = (s["test"]["auc"]["mean"] for s in doctored["settings"].values())
    assert first_on_test < second_on_test - 0.1
    assert third.text.partition("not used to choose")[2].count("  behind: model.kind=") == 1
    assert third.text.count(" (2 equal seeds)") == 12
    assert "note: equal seeds: runs of different train.seed measured exactly the same" in third.text
    assert "0.0000" not in third.text


@pytest.mark.distributed
def test_failed_runs_are_named_and_the_others_go_on(tmp_path):
    config = make_config(tmp_path, make_data(tmp_path / "data", rows=100, files=1))
    few = settings(train__max_steps=1, data__validation="''")
    ended = run(1, "sweep", config, "--grid", "data.exclude=['nothing'],[]", *few)
    assert ended.codes == [6], ended.text
    assert "1 of 2 runs failed" in ended.text
    assert "exit code 2" in ended.text
    assert "step 1/1" in ended.text


@pytest.mark.distributed
def test_what_only_tells_of_a_training_may_differ(tmp_path):
    config = make_config(tmp_path, make_data(tmp_path / "data", rows=100, files=1))
    few = settings(train__max_steps=1, data__validation="''")
    assert run(1, "sweep", config, *few).codes == [0]
    again = run(1, "sweep", config, *few, *settings(log__every_steps=7, insight__every_steps=3))
    assert again.codes == [0], again.text
    assert "complete" in again.text


class _TrainsNothing:
    """An engine of another version of home_dist, say, for which the runs are complete."""

    def train(self, config, runs, screen):
        return []


@pytest.mark.distributed
def test_runs_that_stay_incomplete_are_told(tmp_path):
    config = make_config(tmp_path, make_data(tmp_path / "data", rows=100, files=1))
    few = ["train.max_steps=1", "data.validation="]
    assert run(1, "sweep", config, *(part for text in few for part in ("--set", text))).codes == [0]
    kept = plan(config, [], 1, [*few, "checkpoint.keep_last=7"])
    told = r"run of other settings.*checkpoint\.keep_last = \d+ there, 7 here.*another run\.dir"
    with pytest.raises(SweepFailed, match=told):
        sweep(config, kept, _TrainsNothing(), "auc", Screen(False))
