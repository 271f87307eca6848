"""What benchmarks/quality.py tells of a pool: against scikit-learn, and that looks at the test days are only ever added."""

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks.calibration import causes
from benchmarks.quality import DISTILLED, ENSEMBLE, claims, compared, differences_table, look, power, table
from benchmarks.quality_pool import Pool, origins_of


def drawn(rows: int = 900) -> Pool:
    random = np.random.default_rng(0)
    labels = (random.random((rows, 2)) < 0.3).astype(float)
    noise = [random.normal(size=(rows, 2)) for _ in range(4)]
    strong, again, weak, other = (1 / (1 + np.exp(-s * labels - n)) for s, n in zip((2, 2, 0.2, 0.5), noise, strict=True))
    users, days = random.integers(0, 50, rows), random.integers(8, 11, rows)
    scores = {"HoME": [strong, again], "logistic regression": [weak], "LightGBM": [other]}
    return Pool(["like", "view"], labels, np.ones_like(labels), users, days, scores)


def result() -> dict:
    pool = drawn()
    return compared(pool, 100) | {
        "power": power(pool, False),
        "rolling": "8:10",
        "split": "test",
        "grid": "g",
        "overrides": [],
        "tasks": pool.tasks,
    }


def test_the_mean_of_seeds_is_compared_with_all():
    pool = drawn()
    pool.scores[ENSEMBLE] = [np.mean(pool.scores["HoME"], axis=0)]
    found = compared(pool, 100)
    assert found["home_minus"].keys() == {"logistic regression", "LightGBM"}
    assert found["ensemble_minus"].keys() == {"HoME", "logistic regression", "LightGBM"}
    area = np.mean([roc_auc_score(pool.labels[:, k], pool.scores[ENSEMBLE][0][:, k]) for k in range(2)])
    ahead = found["ensemble_minus"]["HoME"]["AUC"]
    assert ahead["estimate"] == pytest.approx(area - found["systems"]["HoME"]["AUC"]["mean"])
    assert ahead["low"] > 0  # two seeds with noise of their own
    lines = differences_table(found)
    assert [line.split(" | ")[0] for line in lines if " minus |" in line] == ["| HoME minus", f"| {ENSEMBLE} minus"]
    pool.scores[DISTILLED] = [pool.scores["HoME"][1]]
    found = compared(pool, 100)
    assert found["home_minus"].keys() == {"logistic regression", "LightGBM"}
    assert found["ensemble_minus"].keys() == {"HoME", "logistic regression", "LightGBM"}
    assert found["distilled_minus"].keys() == {"HoME", "logistic regression", "LightGBM", ENSEMBLE}
    assert found["distilled_minus"][ENSEMBLE]["AUC"]["high"] < 0
    assert [line for line in claims(found) if line.startswith(f"claim: AUC of {ENSEMBLE} minus HoME, low end")]


def test_figures_are_means_over_seeds_and_tasks():
    found, pool = result(), drawn()
    areas = [np.mean([roc_auc_score(pool.labels[:, k], s[:, k]) for k in range(2)]) for s in pool.scores["HoME"]]
    assert found["systems"]["HoME"]["AUC"]["seeds"] == pytest.approx(areas)
    assert found["systems"]["HoME"]["AUC"]["mean"] == pytest.approx(np.mean(areas))
    weak = np.mean([roc_auc_score(pool.labels[:, k], pool.scores["logistic regression"][0][:, k]) for k in range(2)])
    difference = found["home_minus"]["logistic regression"]["AUC"]
    assert difference["estimate"] == pytest.approx(np.mean(areas) - weak)
    assert 0 < difference["low"] < difference["estimate"] < difference["high"]
    assert found["days"] == 3
    assert found["systems"]["HoME"]["calibration"]["like"] == pytest.approx(
        np.mean([s[:, 0].sum() for s in pool.scores["HoME"]]) / pool.labels[:, 0].sum()
    )
    assert all(line.endswith(": met") for line in claims(found))
    assert "HoME minus" in table(found)


def test_a_look_is_added_and_none_is_lost(tmp_path):
    path, found = tmp_path / "results" / "looks.jsonl", result()
    for n in range(3):
        look(path, found, f"look {n}")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["why"] for line in lines] == ["look 0", "look 1", "look 2"]
    assert all(line["date"].endswith("+00:00") and line["commit"] for line in lines)
    assert lines[0]["seen"]["HoME"]["AUC"] == found["systems"]["HoME"]["AUC"]["mean"]


def test_some_tasks():
    pool = drawn()
    some = pool.only(["view"])
    assert some.tasks == ["view"]
    np.testing.assert_array_equal(some.labels[:, 0], pool.labels[:, 1])
    np.testing.assert_array_equal(some.scores["HoME"][1][:, 0], pool.scores["HoME"][1][:, 1])


def test_origins():
    assert origins_of("8:12") == [8, 9, 10, 11, 12]
    assert origins_of("12") == [12]


def test_the_factors_of_calibration_multiply_to_it():
    random = np.random.default_rng(1)

    def day() -> dict:
        labels = (random.random((500, 1)) < 0.2).astype(np.float32)
        return {"scores": random.random((500, 1)), "labels": labels, "weights": np.ones((500, 1)), "groups": np.arange(500)}

    members = [{"validation": day(), "test": day()} for _ in range(2)]
    found = causes(["like"], members, [{"like": (90.0, 100.0, 800.0)}, {"like": (50.0, 40.0, 300.0)}])["like"]
    assert found["fit"] == pytest.approx(140 / 140)
    assert found["fit"] * found["inputs"] * found["drift"] == pytest.approx(found["test"])
    labels = np.concatenate([m["test"]["labels"] for m in members])
    assert found["drift"] == pytest.approx((140 / 1100) / labels.mean())
