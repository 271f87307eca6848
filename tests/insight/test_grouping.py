"""Groups of tasks from their gradients: the tree against scipy, products against plain vectors, groups against planted ones."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from sklearn.metrics import adjusted_rand_score

from home_dist.errors import ConfigError
from home_dist.insight.affinity import LEAST_STEPS, RunSteps, affinity, transfer
from home_dist.insight.clustering import clusters_of, cut, separation, tree
from home_dist.insight.grouping import group_names, held_out, likeness, numbered, propose
from home_dist.insight.run_figures import RunFigures
from home_dist.insight.store import InsightStore, Names, StepRecord
from home_dist.schema import save_schema
from tests.factory import make_schema
from tests.insight.heads import record_two_steps

TRUE = ["a", "a", "a", "b", "b", "b"]


def symmetric(count: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).uniform(-1, 1, (count, count))
    return (values + values.T) / 2


def gradients(steps: int, seed: int, pull: float = 1.0, width: int = 200) -> np.ndarray:
    """(S, K, width): each group has a direction of its own, which its tasks' gradients contain beside noise."""
    random = np.random.default_rng(seed)
    directions = {g: random.normal(size=width) for g in TRUE}
    noise = random.normal(size=(steps, len(TRUE), width))
    sizes = np.array([3.0, 1.0, 0.2, 2.0, 1.0, 0.1])[:, None]
    return sizes * (noise + pull * 0.3 * np.stack([directions[g] for g in TRUE]))


def write_run(folder, g: np.ndarray, groups=TRUE, positives: float = 0.5) -> RunFigures:
    """A run's folder whose sampled steps recorded these gradients (S, K, width)."""
    folder.mkdir()
    (folder / "config.toml").write_text('[run]\ndir = "r"\n[data]\npath = "d"\n')
    tasks = [{"name": f"t{k}", "group": group, "column": f"t{k}"} for k, group in enumerate(groups)]
    save_schema(make_schema().model_validate({**make_schema().model_dump(), "task": tasks}), folder / "schema.toml")
    store = InsightStore(folder / "insight")
    store.begin(Names([t["name"] for t in tasks], list(groups), [], []), 0)
    for n, of_step in enumerate(g):
        norms = np.linalg.norm(of_step, axis=1)
        cosine = of_step @ of_step.T / np.maximum(np.outer(norms, norms), 1e-30)
        figures = {"input_cosine": cosine, "input_norm": norms, "positives": np.full(len(norms), positives)}
        store.write(StepRecord(10 * (n + 1), figures))
    return RunFigures.open(folder)


@pytest.mark.parametrize("count", [2, 3, 7, 20])
def test_the_tree_is_scipys(count):
    for seed in range(5):
        values = symmetric(count, seed)
        np.fill_diagonal(values, 1)
        found = tree(values)
        expected = linkage(squareform(1 - values, checks=False), "average")
        assert [(m.left, m.right) for m in found] == [tuple(sorted(map(int, row[:2]))) for row in expected]
        assert [m.affinity for m in found] == pytest.approx((1 - expected[:, 2]).tolist())
        for clusters in range(1, count + 1):
            labels = fcluster(expected, clusters, "maxclust")
            assert adjusted_rand_score(labels, cut(found, clusters)) == 1
            assert cut(found, clusters).max() == clusters - 1


def test_the_number_of_clusters_is_the_one_that_separates_best():
    truth = np.array([0, 0, 1, 1, 1, 2, 2])
    values = np.where(truth[:, None] == truth[None], 0.8, 0.1) + 0.05 * symmetric(7, 0)
    assert clusters_of(values).tolist() == truth.tolist()
    scores = {n: separation(values, cut(tree(values), n)) for n in range(2, 7)}
    pairs = [(values[i, j], float(truth[i] == truth[j])) for i in range(7) for j in range(i)]
    assert scores[3] == pytest.approx(np.corrcoef(np.array(pairs).T)[0, 1])
    assert max(scores, key=scores.__getitem__) == 3
    assert clusters_of(values, 2).max() == 1
    assert clusters_of(np.array([[1.0, 0.5], [0.5, 1.0]])).tolist() == [0, 0]


def test_affinity_is_that_of_plain_vectors(tmp_path):
    g = gradients(30, 0)
    steps = RunSteps.of(write_run(tmp_path / "run", g))
    of_steps = np.array([[[float(a @ b) for b in step] for a in step] for step in g])
    mean = of_steps.mean(0)
    scale = np.sqrt(np.diag(mean))
    assert affinity([steps]).mean == pytest.approx(mean / np.outer(scale, scale), abs=1e-5)
    error = (of_steps / np.outer(scale, scale)).std(0, ddof=1) / np.sqrt(30)
    assert affinity([steps]).standard_error == pytest.approx(error, abs=1e-5)
    assert transfer([steps])[0, 2] == pytest.approx(mean[0, 2] / mean[2, 2], rel=1e-3)


def test_planted_directions_come_back_and_noise_has_no_ground(tmp_path):
    found = propose([write_run(tmp_path / "planted", gradients(60, 1), groups=["x", "x", "y", "y", "y", "x"])])
    assert adjusted_rand_score(TRUE, found.clusters) == 1
    assert found.grounded
    assert all(found.clear)
    assert found.proposed == ["x", "x", "x", "y", "y", "y"]
    assert found.changes == {"t2": "x", "t5": "y"}
    noise = propose([write_run(tmp_path / "noise", gradients(60, 1, pull=0.0), groups=TRUE)])
    assert not noise.grounded
    assert noise.changes == {}
    assert noise.proposed == TRUE


def test_a_task_that_no_step_tells_about_keeps_its_group(tmp_path):
    g = gradients(60, 3)
    g[:, 5] = np.random.default_rng(8).normal(size=g[:, 5].shape)
    found = propose([write_run(tmp_path / "run", g, groups=["x", "x", "x", "y", "y", "y"])])
    assert found.clear[:5] == [True] * 5
    assert found.alone == [False] * 5 + [True]
    assert not found.clear[5]
    assert found.proposed == ["x", "x", "x", "y", "y", "y"]
    assert found.changes == {}


def test_runs_that_disagree_are_not_clear(tmp_path):
    same = [write_run(tmp_path / f"seed{s}", gradients(40, s)) for s in (0, 1)]
    found = propose(same)
    assert found.over_runs is not None
    assert found.over_runs.tolist() == [1.0] * 6
    other = write_run(tmp_path / "other", gradients(40, 2)[:, [0, 3, 1, 4, 2, 5]])
    mixed = propose([same[0], other])
    assert mixed.over_runs is not None
    assert mixed.over_runs.max() < 1
    assert not all(mixed.clear)


def test_as_many_groups_as_asked_for(tmp_path):
    run = write_run(tmp_path / "run", gradients(40, 0))
    assert propose([run], 4).clusters.max() == 3
    for wrong in (1, 6, 7):
        with pytest.raises(ConfigError, match=f"--groups {wrong}: 6 tasks make 2 to 5 groups"):
            propose([run], wrong)


def test_a_run_given_twice_is_refused(tmp_path):
    run = write_run(tmp_path / "run", gradients(40, 0))
    with pytest.raises(ConfigError, match=r"has recorded the same gradients as .*Give runs of other seeds"):
        propose([run, run])


def test_likeness_is_jaccards():
    one, other = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    assert likeness(one, other).tolist() == [2 / 3, 2 / 3, 1 / 4, 1 / 2]


def test_the_margin_of_the_other_half_is_that_of_plain_loops(tmp_path):
    steps = RunSteps.of(write_run(tmp_path / "run", gradients(40, 5)))
    made, other = affinity([steps], [np.arange(20)]), affinity([steps], [np.arange(20, 40)])
    margins = []
    for p in other.products:
        of = {True: [], False: []}
        for i in range(6):
            for j in range(i):
                of[TRUE[i] == TRUE[j]].append(p[i, j] / np.std(made.products[:, i, j], ddof=1))
        margins.append(np.mean(of[True]) - np.mean(of[False]))
    expected = np.mean(margins) / (np.std(margins, ddof=1) / np.sqrt(20))
    assert held_out(numbered(TRUE), made, other) == pytest.approx(expected)
    assert held_out(np.zeros(6, np.int64), made, other) == 0


def test_names_are_those_of_present_groups_where_these_share_most():
    tasks = ["like", "follow", "view", "comment"]
    assert group_names(np.array([0, 0, 1, 0]), ["a", "a", "b", "b"], tasks) == ["a", "b"]
    assert group_names(np.array([0, 1, 2, 1]), ["a", "a", "a", "a"], tasks) == ["like_group", "a", "view_group"]


def test_what_cannot_be_grouped_is_refused(tmp_path):
    few = write_run(tmp_path / "few", gradients(LEAST_STEPS - 1, 0))
    with pytest.raises(ConfigError, match=f"{LEAST_STEPS - 1} sampled steps .* {LEAST_STEPS} are needed.*insight.every_steps"):
        propose([few])
    alone = write_run(tmp_path / "alone", gradients(30, 0)[:, :1], ["a"])
    with pytest.raises(ConfigError, match="trains one task, t0"):
        propose([alone])
    silent = gradients(30, 0)
    silent[:, 2] = 0
    with pytest.raises(ConfigError, match="no gradient of t2"):
        propose([write_run(tmp_path / "silent", silent)])
    first, second = (
        write_run(tmp_path / "six", gradients(30, 0)),
        write_run(tmp_path / "two", gradients(30, 0)[:, :2], TRUE[:2]),
    )
    with pytest.raises(ConfigError, match=r"trains t0, t1, and .* t0, t1, t2.*same tasks"):
        propose([first, second])
    (tmp_path / "quiet").mkdir()
    record_two_steps(tmp_path / "quiet", "mmoe")
    (tmp_path / "quiet" / "insight" / "names.json").unlink()
    with pytest.raises(ConfigError, match=r"insight\.every_steps is 0"):
        propose([RunFigures.open(tmp_path / "quiet")])
