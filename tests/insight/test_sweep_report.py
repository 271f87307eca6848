"""What a sweep tells about its settings: the order, intervals, and whatever makes figures less than they seem."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from home_dist.errors import ConfigError
from home_dist.files.json_files import json_text
from home_dist.insight.differences import Differences, chance
from home_dist.insight.kept_scores import fingerprint
from home_dist.insight.run_figures import RunFigures
from home_dist.insight.settings import Setting, SplitOfSettings
from home_dist.insight.sweep_report import SweepReport
from home_dist.insight.sweep_tables import spread, with_spread
from home_dist.metrics import evaluate_tasks
from home_dist.screen import Screen
from tests.factory import make_schema
from tests.insight.scored_runs import NAMES, scores_of, without_users, write_run


def setting(folder, name, strengths, seeds=(0, 1), change=lambda scored: scored, **options) -> Setting:
    """strengths: by split."""
    runs = {}
    for seed in seeds:
        # Seeds of one setting are not those of another: settings differ by more than their strength.
        drawn = {split: change(scores_of(split, s, seed + 10 * len(name))) for split, s in strengths.items()}
        runs[seed] = RunFigures.open(write_run(folder / name / f"seed-{seed}", drawn, **options))
    return Setting(name, runs)


def shown(report: SweepReport) -> str:
    screen = Screen(True)
    screen._console = Console(width=110, highlight=False, soft_wrap=True, file=io.StringIO())
    report.show("sweep of a test", screen)
    return screen._console.file.getvalue()


def position(text: str, *parts: str) -> list[int]:
    assert all(p in text for p in parts), text
    return [text.index(p) for p in parts]


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """In the order weak, best, close on validation; test says weak."""
    folder = tmp_path_factory.mktemp("three")
    return [
        setting(folder, "weak", {"validation": 0.3, "test": 2.0}),
        setting(folder, "best of all", {"validation": 1.2, "test": 0.4}),
        setting(folder, "close", {"validation": 1.16, "test": 0.4}),
    ]


def test_validation_decides_and_test_stands_apart_in_the_same_order(three):
    report = SweepReport(three, "auc")
    assert [s.name for s in report.settings] == ["best of all", "close", "weak"]
    text = shown(report)
    parts = ["validation, ranked by mean AUC", "best on validation by mean AUC: best of all", "not used to choose"]
    assert position(text, *parts) == sorted(position(text, *parts))
    tables = text.split("not used to choose")
    for table in tables:
        assert position(table, "│ best of all", "│ close", "│ weak") == sorted(
            position(table, "│ best of all", "│ close", "│ weak")
        )
    assert "  ahead of: weak\n  difference is chance: close\n" in tables[0]
    assert "best of all on test, by mean AUC\n  difference is chance: close\n  behind: weak\n" in tables[1]
    assert text.count("intervals: 95 %, 200 draws of users") == 1
    assert SweepReport(list(reversed(three)), "log_loss").settings[0].name != "weak"


def test_differences_are_paired_by_user_and_seed(three):
    """Against a loop over draws that copies rows."""
    measured = SplitOfSettings("validation", three)
    found = Differences(measured).between(three[1], three[0])
    assert found.seeds == (0, 1)
    random, expected = np.random.default_rng(0), {"auc": [], "gauc": [], "log_loss": []}
    kept = {
        (s.name, seed): dict(np.load(run.path / "scores" / "validation.npz")) for s in three[:2] for seed, run in s.runs.items()
    }
    groups = kept["weak", 0]["groups"]
    names = np.unique(groups)
    for _ in range(200):
        drawn = names[random.integers(0, len(names), len(names))]
        rows = np.concatenate([np.flatnonzero(groups == user) for user in drawn])
        copies = np.concatenate([np.full((groups == user).sum(), n) for n, user in enumerate(drawn)])
        means = {}
        for key, k in kept.items():
            tasks = evaluate_tasks(NAMES, k["labels"][rows], k["weights"][rows], k["scores"][rows], copies)
            means[key] = {m: np.mean([getattr(t, m) for t in tasks]) for m in expected}
        for m, values in expected.items():
            values.append(np.mean([means["best of all", seed][m] - means["weak", seed][m] for seed in (0, 1)]))
    for m, values in expected.items():
        interval = found.intervals[m]
        assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=1e-9)
        assert interval.estimate == pytest.approx(measured.mean(three[1], m) - measured.mean(three[0], m), abs=1e-9)
        assert not chance(interval)


def test_what_is_written_is_what_is_shown(three):
    tree = json.loads(json_text(SweepReport(three, "auc").to_json()))
    assert (tree["chosen_on"], tree["by"], tree["best"]) == ("validation", "auc", "best of all")
    assert list(tree["settings"]) == ["best of all", "close", "weak"]
    of_best = tree["settings"]["best of all"]["test"]["auc"]
    runs = [run.mean("test", "auc") for run in three[1].runs.values()]
    assert (of_best["runs"], of_best["mean"]) == (pytest.approx(runs), pytest.approx(np.mean(runs)))
    assert of_best["standard_deviation"] == pytest.approx(np.std(runs, ddof=1))
    assert tree["differences"]["validation"]["close"]["auc"]["chance"] is True
    assert tree["differences"]["test"]["weak"]["auc"]["high"] < 0
    again = json_text(SweepReport(three, "auc").to_json())
    assert json.loads(again) == tree  # draws have a seed


def test_equal_seeds_are_told_and_no_deviation_of_nothing(tmp_path):
    same = setting(tmp_path, "same", {"validation": 1.0, "test": 1.0}, seeds=(0,))
    same = Setting("same", {0: same.runs[0], 1: same.runs[0]})
    other = setting(tmp_path, "other", {"validation": 0.5, "test": 0.5})
    text = shown(SweepReport([same, other], "auc"))
    assert f"{same.runs[0].mean('validation', 'auc'):.4f} (2 equal seeds)" in text
    assert "note: equal seeds: runs of different train.seed measured exactly the same" in text
    assert "± 0.0000" not in text
    one = setting(tmp_path, "alone", {"validation": 0.5}, seeds=(3,))
    assert "±" not in shown(SweepReport([one], "auc"))


def test_settings_in_brackets_are_shown_as_they_are(tmp_path):
    names = ("model.expert_hidden=[8]", "data.tasks=[like]", "a=[/b]")
    text = shown(SweepReport([setting(tmp_path, n.replace("/", ""), {"validation": 1.0}) for n in names], "auc"))
    assert position(text, "│ model.expert_hidden=[8]", "│ data.tasks=[like]", "│ a=[b]")


def test_cells():
    assert with_spread([0.5, 0.5, 0.5]) == "0.5000 (3 equal seeds)"
    assert with_spread([0.5, 0.7, np.nan]) == "0.6000 ± 0.1414"
    assert with_spread([0.5, 0.5 + 1e-6]) == "0.5000 ± 7e-07"
    assert (with_spread([0.5]), with_spread([]), with_spread([np.nan])) == ("0.5000", "-", "-")
    assert spread([0.5, 0.7, np.nan]) == pytest.approx((0.6, np.sqrt(0.02)))


def test_one_setting_shows_its_seeds(tmp_path):
    report = SweepReport([setting(tmp_path, "as configured", {"validation": 1.0, "test": 1.0})], "auc")
    text = shown(report)
    assert "sweep of a test: validation\nmeans over tasks ± standard deviation over seeds\n" in text
    assert "test, not used to choose\n" in text
    assert position(text, "│ seed 0", "│ seed 1", "│ as configured")
    assert "minus" not in text


def test_without_validation_nothing_is_ranked(tmp_path):
    settings = [setting(tmp_path, name, {"test": s}) for name, s in (("weak", 0.1), ("strong", 2.0))]
    report = SweepReport(settings, "auc")
    assert [s.name for s in report.settings] == ["weak", "strong"]
    text = shown(report)
    assert "test, not ranked" in text
    assert "note: the runs have no validation split (data.validation): the settings stand in the order of the sweep" in text
    assert "has chosen on test" in text
    assert "best on" not in text
    tree = report.to_json()
    assert (tree["chosen_on"], tree["best"], tree["differences"]) == (None, None, {"test": {}})
    mixed = [settings[0], setting(tmp_path, "with", {"validation": 1.0, "test": 1.0})]
    assert "note: the runs of weak have no validation split" in shown(SweepReport(mixed, "auc"))
    nothing = [settings[0], setting(tmp_path, "other", {"validation": 1.0})]
    assert "no split in common" in shown(SweepReport(nothing, "auc"))


def test_without_test_it_is_said(tmp_path):
    settings = [setting(tmp_path, name, {"validation": s}) for name, s in (("weak", 0.1), ("strong", 2.0))]
    text = shown(SweepReport(settings, "auc"))
    assert "not all runs have a test split" in text
    assert "  ahead of: weak" in text


def test_without_kept_scores_differences_have_no_interval(tmp_path):
    strengths = {"validation": 1.0, "test": 1.0}
    settings = [setting(tmp_path, "kept", strengths), setting(tmp_path, "thrown away", strengths, keep=599)]
    report = SweepReport(settings, "auc")
    text = shown(report)
    assert "no interval" in text
    assert "is not there: scores are kept of splits of at most metrics.keep_scores rows" in text
    assert "  without an interval: " in text
    [difference] = report.to_json()["differences"]["validation"].values()
    assert difference["auc"]["chance"] is None
    best, other = (SplitOfSettings("validation", settings).mean(s, "auc") for s in report.settings)
    assert difference["auc"]["estimate"] == pytest.approx(best - other)
    (settings[0].runs[0].path / "scores" / "validation.npz").write_bytes(b"PK but no more")
    with pytest.raises(ConfigError, match="cannot be read as the scores of a run"):
        SweepReport(settings, "auc")


def test_without_users_rows_are_drawn(tmp_path):
    schema = make_schema().model_copy(update={"group_column": None})
    settings = [
        setting(tmp_path, name, {"validation": s}, change=without_users, schema=schema)
        for name, s in (("weak", 0.1), ("strong", 2.0))
    ]
    text = shown(SweepReport(settings, "auc"))
    assert "200 draws of rows" in text
    assert "  ahead of: weak" in text
    tree = SweepReport(settings, "gauc").to_json()
    assert tree["best"] is None
    assert "no run has a mean GAUC on validation" in shown(SweepReport(settings, "gauc"))


def test_other_rows_have_no_pairs_but_another_order_has(tmp_path):
    strengths = {"validation": 1.0}
    order = np.random.default_rng(0).permutation(600)

    def moved(scored):
        return replace(scored, **{n: getattr(scored, n)[order] for n in ("scores", "labels", "weights", "groups", "slices")})

    plain = setting(tmp_path, "plain", strengths)
    other_order = setting(tmp_path, "order", strengths, change=moved)
    other_rows = setting(tmp_path, "rows", strengths, change=lambda s: replace(s, groups=np.roll(s.groups, 1)))
    differences = Differences(SplitOfSettings("validation", [plain, other_order, other_rows]))
    assert differences.between(plain, other_order).no_interval == ""
    assert "were not measured on the same rows" in differences.between(plain, other_rows).no_interval
    one = dict(np.load(plain.runs[0].path / "scores" / "validation.npz"))
    two = dict(np.load(other_order.runs[0].path / "scores" / "validation.npz"))
    rows = np.arange(600)
    assert fingerprint(one, one["groups"], [0, 2]) == fingerprint(two, two["groups"], [0, 2])
    assert fingerprint(one, rows, [0, 2]) != fingerprint(two, rows, [0, 2])


def test_a_task_or_a_run_that_diverged_is_left_out_of_all_means(tmp_path):
    def without_like(scored):
        weights = scored.weights.copy()
        weights[:, 0] = 0
        return replace(scored, weights=weights)

    whole = setting(tmp_path, "whole", {"validation": 1.0})
    part = setting(tmp_path, "part", {"validation": 1.0}, change=without_like)
    gone = setting(tmp_path, "gone", {"validation": 1.0}, change=lambda s: replace(s, weights=0 * s.weights))
    half = Setting("half", {0: gone.runs[0], 1: whole.runs[1]})
    measured = SplitOfSettings("validation", [gone, whole, part, half])
    assert measured.tasks("auc") == ["follow", "watch"]
    assert measured.mean(whole, "auc") == pytest.approx(
        np.mean([run.metric("validation", t, "auc") for run in whole.runs.values() for t in ("follow", "watch")])
    )
    report = SweepReport([gone, whole, part, half], "auc")
    assert report.settings[-1].name == "gone"
    text = shown(report)
    assert text.count("no AUC, GAUC, log loss of ") == text.count(": the means are of the other runs") == 1
    assert all(name in text for name in ("gone, seed 0", "gone, seed 1", "half, seed 0"))
    assert "not every run has AUC, GAUC, log loss of like: the means are of follow, watch" in text
    assert "nothing is defined for gone" in text
    assert Differences(measured).between(whole, half).seeds == (1,)
    assert "of seeds 1 alone, which both have" in text
    assert Differences(measured).between(whole, part).no_interval == ""
    json_text(report.to_json())
