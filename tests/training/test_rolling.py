"""A rolling sweep: no model sees its future, the pool is the origins' rows, and a stopped sweep goes on."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from home_dist.errors import ConfigError
from home_dist.ids.no_group import NO_GROUP
from home_dist.insight.kept_scores import kept_scores
from home_dist.insight.rolling_pool import measured_pool, pool, within_days
from home_dist.insight.rolling_report import CHOSEN, RollingReport
from home_dist.insight.run_figures import RunFigures
from home_dist.insight.settings import Setting
from home_dist.schema import save_schema
from home_dist.screen import Screen
from home_dist.training.rolling import plan_rolling
from tests.factory import make_config, make_rows, make_schema
from tests.insight.scored_runs import scores_of, write_run
from tests.ranks import run, settings

DAY_MS = 86_400_000
START = 19_000 * DAY_MS
DAYS, ROWS = 7, 120


def make_days(folder, flipped_from: int = DAYS):
    """Days 1 to 5 train, 6 validation, 7 test; labels of days after `flipped_from` are the other ones."""
    parts = []
    for day in range(DAYS):
        table = make_rows(ROWS, seed=day, first_id=day * ROWS)
        table = table.append_column("at", pa.array(START + day * DAY_MS + np.arange(ROWS) * 1000))
        if day >= flipped_from:
            for name in ("like", "follow", "watch"):
                flipped = pa.array((1 - table[name].to_numpy()).astype(np.int8))
                table = table.set_column(table.column_names.index(name), name, flipped)
        parts.append(table)
    for split, first, end in (("train", 0, 5), ("validation", 5, 6), ("test", 6, 7)):
        (folder / split).mkdir(parents=True)
        pq.write_table(pa.concat_tables(parts[first:end]), folder / split / "part.parquet", row_group_size=100)
    save_schema(make_schema().model_copy(update={"time_column": "at"}), folder / "schema.toml")
    return folder


def tensors(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.safetensors"))}


@pytest.mark.slow
@pytest.mark.distributed
def test_a_model_does_not_depend_on_labels_after_its_validation_day_and_a_sweep_goes_on(tmp_path):
    few = settings(train__max_steps=4, metrics__keep_scores=100_000)
    for name, flipped_from in (("one", DAYS), ("two", 4)):  # day 5 on
        config = make_config(tmp_path, make_days(tmp_path / f"data-{name}", flipped_from), name=name)
        ended = run(1, "sweep", config, "--rolling", "3:3", *few, timeout=240)
        assert ended.codes == [0], ended.text
    member = "as_configured/seed-0/origin-03"
    exports = []
    for name in ("one", "two"):
        out = tmp_path / f"export-{name}"
        assert run(1, "export", tmp_path / name / member, "--out", out).codes == [0]
        exports.append(tensors(out))
    assert exports[0].keys() == exports[1].keys()
    assert exports[0] == exports[1]
    one, two = (json.loads((tmp_path / name / member / "evaluation.json").read_text()) for name in ("one", "two"))
    assert one["validation"] == two["validation"]
    assert one["test"] != two["test"]

    made = tmp_path / "one" / member / "evaluation.json"
    before = made.stat().st_mtime_ns
    second = run(1, "sweep", tmp_path / "one.toml", "--rolling", "3:5", *few, timeout=240)
    assert second.codes == [0], second.text
    assert "[1/3] origin 03: complete" in second.text
    assert second.text.count("step 4/4") == 2
    assert made.stat().st_mtime_ns == before
    assert "3 origins pooled: test" in second.text
    kept = kept_scores(tmp_path / "one" / "pooled" / "as_configured" / "seed-0", "test")
    assert kept["days"].tolist() == [3] * ROWS + [4] * ROWS + [5] * ROWS
    members = [kept_scores(tmp_path / "one" / f"as_configured/seed-0/origin-0{n}", "test") for n in (3, 4, 5)]
    np.testing.assert_array_equal(kept["scores"], np.concatenate([m["scores"] for m in members]))
    tree = json.loads((tmp_path / "one" / "sweep.json").read_text())
    aucs = [
        roc_auc_score(kept["labels"][:, k], kept["scores"][:, k], sample_weight=kept["weights"][:, k])
        for k in range(kept["labels"].shape[1])
    ]
    assert tree["settings"]["as configured"]["test"]["auc"]["mean"] == pytest.approx(np.mean(aucs), abs=1e-9)
    assert set(tree["rolling"]["origins"]) == {"3", "4", "5"}
    assert (tmp_path / "one" / "sweep.png").read_bytes()[:4] == b"\x89PNG"


def members_of(folder, strengths: dict[str, dict[int, float]], origins=(3, 4)):
    """By setting, seed and origin: runs with drawn scores, some strong, some weak."""
    found: dict[str, dict[int, dict[int, RunFigures]]] = {}
    for setting, by_origin in strengths.items():
        for seed in (0, 1):
            for n in origins:
                splits = {}
                for split in ("validation", "test"):
                    splits[split] = scores_of(f"{split}{n}", by_origin[n], seed)
                path = write_run(folder / setting / f"seed-{seed}" / f"origin-{n}", splits)
                found.setdefault(setting, {}).setdefault(seed, {})[n] = RunFigures.open(path)
    return found


def pairwise_auc(labels, scores, weights) -> float:
    positive, negative = labels == 1, labels == 0
    won = (scores[positive][:, None] > scores[negative]) + 0.5 * (scores[positive][:, None] == scores[negative])
    pairs = weights[positive][:, None] * weights[negative]
    return float((won * pairs).sum() / pairs.sum())


def test_pooled_figures_are_those_of_loops_over_users_and_days(tmp_path):
    members = members_of(tmp_path, {"a": {3: 0.6, 4: 0.6}})
    found = pool(members["a"][0], tmp_path / "pool")
    kept = kept_scores(found.path, "test")
    assert len(kept["groups"]) == 1200
    for k, task in enumerate(found.tasks):
        y, s, w = (kept[name][:, k].astype(np.float64) for name in ("labels", "scores", "weights"))
        known = w > 0
        assert found.metric("test", task, "auc") == pytest.approx(roc_auc_score(y[known], s[known], sample_weight=w[known]))
        won = shown = 0.0
        for user in np.unique(kept["groups"]):
            for day in (3, 4):
                rows = known & (kept["groups"] == user) & (kept["days"] == day)
                if len(np.unique(y[rows])) == 2:
                    won += w[rows].sum() * pairwise_auc(y[rows], s[rows], w[rows])
                    shown += w[rows].sum()
        assert found.metric("test", task, "gauc") == pytest.approx(won / shown, abs=1e-12)


def test_the_paired_interval_takes_a_users_rows_of_all_days_together(tmp_path):
    members = members_of(tmp_path, {"a": {3: 1.0, 4: 1.0}, "b": {3: 0.7, 4: 0.7}})
    pools = [Setting(n, {0: pool(runs[0], tmp_path / "pools" / n)}) for n, runs in members.items()]
    days = {3: "2022-05-05", 4: "2022-05-06"}
    one_seed = {name: {0: runs[0]} for name, runs in members.items()}
    report = RollingReport.of(one_seed, pools, "auc", days, tmp_path / "pools")
    [difference] = [d for d in report.differences if d.other == "b"]
    a, b = (kept_scores(tmp_path / "pools" / name, "test") for name in "ab")
    random, users = np.random.default_rng(0), np.unique(a["groups"])
    drawn = []
    for _ in range(200):
        chosen = users[random.integers(0, len(users), len(users))]
        rows = np.concatenate([np.flatnonzero(a["groups"] == user) for user in chosen])
        gaps = [
            roc_auc_score(a["labels"][rows, k], a["scores"][rows, k], sample_weight=a["weights"][rows, k])
            - roc_auc_score(b["labels"][rows, k], b["scores"][rows, k], sample_weight=b["weights"][rows, k])
            for k in range(3)
        ]
        drawn.append(np.mean(gaps))
    low, high = np.quantile(drawn, [0.025, 0.975])
    interval = difference.intervals["auc"]
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-9)
    assert interval.draws == 200


def test_each_origin_chooses_on_its_own_validation_day(tmp_path):
    """a is better at origin 3, b at origin 4."""
    members = members_of(tmp_path, {"a": {3: 1.5, 4: 0.2}, "b": {3: 0.2, 4: 1.5}})
    pools = [
        Setting(n, {s: pool(runs, tmp_path / "pools" / n / f"{s}") for s, runs in seeds.items()})
        for n, seeds in members.items()
    ]
    report = RollingReport.of(members, pools, "auc", {3: "2022-05-05", 4: "2022-05-06"}, tmp_path / "pools")
    assert report.chosen == {3: "a", 4: "b"}
    tree = report.to_json()
    assert all(d["auc"]["low"] > 0 for d in tree["chosen"]["differences"].values())
    assert tree["origins"]["3"]["test"]["a"]["auc"] > tree["origins"]["3"]["test"]["b"]["auc"] + 0.1
    kept = kept_scores(tmp_path / "pools" / "chosen" / "seed-1", "test")
    expected = [kept_scores(members[name][1][n].path, "test")["scores"] for name, n in (("a", 3), ("b", 4))]
    np.testing.assert_array_equal(kept["scores"], np.concatenate(expected))
    with_table = Screen(True)
    report.show(with_table)
    assert CHOSEN == "chosen at each origin"


def test_rows_without_a_user_are_in_no_group():
    groups = np.array([5, 5, NO_GROUP, 7, 5], np.int64)
    pairs = within_days(groups, np.array([1, 2, 1, 1, 1]))
    assert pairs[0] == pairs[4]
    assert len(set(pairs.tolist())) == 4
    assert pairs[2] == NO_GROUP


def test_numbers_and_classes_are_pooled_too():
    random = np.random.default_rng(0)
    kept = {
        "scores": np.hstack([random.random((60, 1)), random.dirichlet([1, 1, 1], 60)]),
        "labels": np.stack([random.random(60), random.integers(0, 3, 60)], 1),
        "weights": np.ones((60, 2)),
        "groups": random.integers(0, 5, 60),
        "days": np.repeat([1, 2], 30),
        "families": np.array(["number", "class"]),
        "predictions": np.array([1, 3]),
    }
    number, classes = measured_pool(kept, ["seconds", "level"], True)
    assert number.mae == pytest.approx(np.abs(kept["scores"][:, 0] - kept["labels"][:, 0]).mean())
    assert classes.accuracy == pytest.approx((kept["scores"][:, 1:].argmax(1) == kept["labels"][:, 1]).mean())
    chosen = kept["scores"][np.arange(60), 1 + kept["labels"][:, 1].astype(int)]
    assert classes.log_loss == pytest.approx(-np.log(chosen).mean())


def test_wrong_use_is_refused_before_anything_is_written(tmp_path):
    config = make_config(tmp_path, make_days(tmp_path / "data"))

    def planned(asked="3:4", grid=(), overrides=()):
        return plan_rolling(config, grid, 1, overrides, asked, None, Screen(True))

    for asked, grid, overrides, message in (
        ("3:6", (), (), "origins are 1 to 5"),
        ("3:4", ("data.path=a,b",), (), "it cannot be varied"),
        ("3:4", ("model.kind=nothing",), (), "model.kind: must be one of"),
        ("3:4", (), ("data.follow=rename", "train.epochs=1", "train.decay=none"), "data.follow: --rolling cuts a finite"),
        ("3:4", (), (f"run.dir={tmp_path}",), "holds the data folder"),
        ("3:4", (), ("metrics.keep_scores=119",), "a day has 120 rows, and --rolling pools"),
        ("3:4", (), ("data.path=s3://logs/mylog?region=eu-west-1",), "--rolling cuts local folders alone"),
    ):
        with pytest.raises(ConfigError, match=message):
            planned(asked, grid, overrides)
        assert not (tmp_path / "run").exists()
    found = planned()
    assert [r.name for r in found.runs] == ["origin 03", "origin 04"]
    assert [r.config.data.path for r in found.runs] == [str(tmp_path / "run" / "data" / f"origin-0{n}") for n in (3, 4)]
    assert found.days == {3: "2022-01-12", 4: "2022-01-13"}


def test_scores_that_were_not_kept_are_told(tmp_path):
    members = members_of(tmp_path, {"a": {3: 1.0, 4: 1.0}})
    (members["a"][0][4].path / "scores" / "test.npz").unlink()
    with pytest.raises(ConfigError, match=r"a pool needs the scores of all rows. Set metrics.keep_scores"):
        pool(members["a"][0], tmp_path / "pool")
