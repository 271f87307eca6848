"""Tasks of every kind in one run: on 1 and 2 ranks, resumed, in bf16, recomputed, accumulated, warm started, exported."""

import json
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from home_dist.schema import load_schema, save_schema
from home_dist.training.checkpoint.reading import open_stored
from tests.distributed.test_training import newest, tensors
from tests.mixed_tasks import NUMBERS, mixed_config, mixed_data
from tests.ranks import run, settings

pytestmark = pytest.mark.distributed

TASKS = ["like", "seconds", "stars", "follow", "by_duration", "odds", "levels_watched", "watch"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return mixed_data(tmp_path_factory.mktemp("mixed") / "data", rows=1536, files=2, row_group=128)


def curves(folder, data, ranks: int, batch_size: int, **values) -> tuple[list[float], dict]:
    config = mixed_config(folder, data, batch_size=batch_size)
    options = settings(embedding__replicate_rows=5000, data__lanes=2, train__epochs=1, train__decay="none", **values)
    ended = run(ranks, "train", config, *options)
    assert ended.codes == [0] * ranks, ended.text
    figures = json.loads((folder / "run" / "evaluation.json").read_text())
    return [float(loss) for _, loss in sorted(ended.losses().items())], figures["test"]


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """One rank in fp32."""
    return curves(tmp_path_factory.mktemp("alone"), data, 1, 64, kernel__precision="fp32")


def test_every_task_learns_and_is_measured_by_its_family(alone):
    losses, test = alone
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    assert list(test) == TASKS
    for task in ("like", "follow", "watch"):
        assert test[task]["auc"] > 0.55
        assert "mae" not in test[task]
    for task in NUMBERS:
        assert test[task]["family"] == "number"
        assert test[task]["xauc"] > 0.55
        assert 0.5 < test[task]["calibration"] < 2
        assert "auc" not in test[task]
    assert test["stars"]["accuracy"] > 0.3


@pytest.mark.slow
def test_two_ranks_learn_the_same(alone, data, tmp_path):
    losses, test = curves(tmp_path, data, 2, 32, kernel__precision="fp32")
    # AdamW divides by the gradient's size: where that is rounding noise, the curves part after some updates.
    assert losses[:8] == pytest.approx(alone[0][:8], rel=1e-3)
    for task in NUMBERS:
        assert test[task]["mae"] == pytest.approx(alone[1][task]["mae"], rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize(
    "values",
    [
        {"train__recompute_experts": "true", "kernel__precision": "fp32"},
        {"train__recompute_experts": "true", "kernel__precision": "fp32", "train__weighting": "gradnorm"},
        {"kernel__precision": "bf16"},
    ],
    ids=["recompute", "recompute and gradnorm", "bf16"],
)
def test_settings_that_change_no_equation(values, alone, data, tmp_path):
    losses, test = curves(tmp_path, data, 1, 64, **values)
    rel = 0.03 if values["kernel__precision"] == "bf16" or "train__weighting" in values else 1e-3
    assert losses[:6] == pytest.approx(alone[0][:6], rel=rel)
    assert test["seconds"]["xauc"] == pytest.approx(alone[1]["seconds"]["xauc"], abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("weighting", ["uncertainty", "dwa", "gradnorm"])
def test_a_stopped_run_goes_on_bit_for_bit(weighting, data, tmp_path):
    """With weights, averages and the wait of train.stop among its state."""
    config = mixed_config(tmp_path, data, batch_size=32)
    stop = "{metric='validation/xauc', patience=50}"
    period = "" if weighting == "uncertainty" else ", period=7"
    options = settings(train__weighting=f"{{kind='{weighting}'{period}}}", train__ema=0.9, train__accumulate=2)
    options += settings(train__stop=stop, checkpoint__every_steps=10, checkpoint__keep_last=100, train__epochs=1)
    whole = run(2, "train", config, *options)
    assert whole.codes == [0, 0], whole.text
    expected = tensors(newest(tmp_path), tmp_path)
    record = open_stored(newest(tmp_path))[1]
    for step in (20, 24):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step-{step:08d}")
    (tmp_path / "run" / "evaluation.json").unlink()
    resumed = run(2, "train", config, *options)
    assert resumed.codes == [0, 0], resumed.text
    assert "step 10 of 24" in resumed.text
    found = tensors(newest(tmp_path), tmp_path)
    assert found.keys() == expected.keys()
    assert [n for n in expected if not torch.equal(found[n].nan_to_num(), expected[n].nan_to_num())] == []
    assert open_stored(newest(tmp_path))[1].state.metrics == pytest.approx(record.state.metrics, nan_ok=True)
    assert "stop/best" in record.state.metrics
    assert int(expected["/dense/head.averages.updates"]) == 12


@pytest.mark.slow
def test_a_warm_start_takes_towers_by_name_and_kind(data, tmp_path):
    first = run(1, "train", mixed_config(tmp_path / "a", data), *settings(train__max_steps=3))
    assert first.codes == [0], first.text
    config = mixed_config(tmp_path / "b", data, '[objective.seconds]\nkind = "regression"\ntransform = "log1p"\n')
    frozen = settings(train__lr=1e-30, embedding__lr=1e-30, embedding__replicated_weight_decay=0, train__max_steps=1)
    ended = run(1, "train", config, *frozen, *settings(checkpoint__warm_start=f"{{from='{tmp_path}/a/run'}}"))
    assert ended.codes == [0], ended.text
    assert re.search(r"dense head.towers.biases.1: taken by name.*first values stay for task seconds as regression", ended.text)
    before, after = (tensors(newest(tmp_path / f), tmp_path / f) for f in "ab")
    names = ["like", "seconds", "follow", "by_duration", "odds", "watch"]  # of one output, in their bank's order
    weights = (before["/dense/head.towers.weights.1"], after["/dense/head.towers.weights.1"])
    for place, name in enumerate(names):
        assert torch.equal(weights[0][place], weights[1][place]) == (name != "seconds"), name
    other = "/dense/head.towers.others.hidden_8_outputs_8.weights.1"
    assert torch.equal(before[other], after[other])


@pytest.mark.slow
def test_a_program_predicts_in_the_labels_unit(data, tmp_path):
    config = mixed_config(tmp_path, data, "[train.ema]\ndecay = 0.5\nuse = true\n".replace("[train.ema]\n", "[train.ema]\n"))
    trained = run(1, "train", config, *settings(train__max_steps=12))
    assert trained.codes == [0], trained.text
    out = tmp_path / "program"
    exported = run(1, "export", tmp_path / "run", "--format", "program", "--out", out)
    assert exported.codes == [0], exported.text
    about = json.loads((out / "program.json").read_text())
    assert [p["name"] for p in about["predictions"]] == [
        *("like", "seconds", "stars_0", "stars_1", "stars_2", "stars_3"),
        *("follow", "by_duration", "odds", "levels_watched", "watch"),
    ]
    assert about["predictions"][1] == {"name": "seconds", "task": "seconds", "kind": "regression", "unit": "s"}
    assert about["inputs"]["duration.length"] == {"dtype": "float32", "first_dimension": "samples"}
    scored = run(1, "score", out, data / "test", "--out", tmp_path / "scores", "--keep", "seconds_told")
    assert "no such column" in scored.text
    scored = run(1, "score", out, data / "test", "--out", tmp_path / "scores", "--keep", "row_id")
    assert scored.codes == [0], scored.text
    scores = pq.read_table(tmp_path / "scores")
    with np.load(tmp_path / "run" / "scores" / "test.npz") as kept:
        expected = kept["scores"]
        assert kept["predictions"].tolist() == [1, 1, 4, 1, 1, 1, 1, 1]
    found = np.stack([scores[p["name"]].to_numpy() for p in about["predictions"]], 1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[:, 2:6].sum(1), 1, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("seconds", -1.0, r"column 'seconds': label -1 is negative or not finite.*task 'by_duration'.*row 7 of its row group"),
        ("seconds", float("nan"), r"column 'seconds': label nan is"),
        ("seconds", 1e39, r"column 'seconds': label 1e\+39 is (negative or )?not finite in float32"),
        ("length", 0.0, r"column 'length': a duration is null, not finite or not above 0.*row 7 of its row group"),
        ("length", None, r"column 'length': a duration is null"),
        ("rating", 4, r"column 'rating': label 4 is no whole number from 0 to 3.*task 'stars'"),
    ],
)
def test_bad_labels_name_task_column_file_and_row(column, value, message, data, tmp_path):
    bad = tmp_path / "data"
    shutil.copytree(data, bad)
    path = bad / "train" / "part-00001.parquet"
    table = pq.read_table(path)
    values = table[column].to_pylist()
    values[7] = value
    place = table.schema.get_field_index(column)
    pq.write_table(table.set_column(place, column, pa.array(values)), path, row_group_size=128)
    config = mixed_config(tmp_path, bad)
    refused = run(1, "train", config, *settings(train__epochs=1))
    assert refused.codes != [0], refused.text
    assert re.search(rf"part-00001\.parquet: {message}", refused.text, re.S), refused.text
    unknown = run(1, "train", config, *settings(train__epochs=1, data__on_bad_label="unknown", run__dir=tmp_path / "other"))
    assert unknown.codes == [0], unknown.text


def test_kinds_of_the_schema_and_facts_that_do_not_fit(data, tmp_path):
    schema = load_schema(data / "schema.toml")
    assert {t.name: t.kind for t in schema.task}["odds"] == "weighted_logistic"
    text = (data / "schema.toml").read_text()
    assert "classes = 4" in text
    save_schema(schema, tmp_path / "schema.toml")
    for before, after, message in (
        ("classes = 4\n", "", "kind multiclass needs `classes`"),
        ('duration = "length"\n', "", "kind duration_quantile needs `duration`"),
    ):
        (tmp_path / "schema.toml").write_text(text.replace(before, after))
        ended = run(1, "train", mixed_config(tmp_path, data), *settings(data__schema=tmp_path / "schema.toml"))
        assert ended.codes != [0]
        assert message in ended.text


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_losses_within_requests(ranks, data, tmp_path):
    """Beside the losses of single samples; metrics within requests equal those of the kept scores, by a plain loop."""
    more = '[objective.like]\nkind = "binary"\nwithin = "jrc"\n[objective.follow]\nkind = "binary"\nwithin = "pairwise"\n'
    more += '[objective.seconds]\nkind = "regression"\nwithin = "listwise"\nwithin_weight = 0.5\n'
    config = mixed_config(tmp_path, data, more, batch_size=64 // ranks)
    ended = run(ranks, "train", config, *settings(data__request="request", train__epochs=2, checkpoint__every_steps=10))
    assert ended.codes == [0] * ranks, ended.text
    assert "within requests: test" in ended.text
    test = json.loads((tmp_path / "run" / "evaluation.json").read_text())["test"]
    table = pq.read_table(data / "test")
    with np.load(tmp_path / "run" / "scores" / "test.npz") as kept:
        scores, labels, weights = kept["scores"], kept["labels"], kept["weights"]
    by_label = {tuple(np.round(row, 4)): r for row, r in zip(labels, range(len(labels)), strict=True)}
    assert len(by_label) > 100
    if ranks == 1:  # rows are in the files' order
        for task, k, column in (("like", 0, 0), ("seconds", 1, 1)):
            found = plain_ndcg(scores[:, column], labels[:, k], weights[:, k], table["request"].to_numpy())
            assert test[task]["ndcg"] == pytest.approx(found, rel=1e-9)
    assert test["like"]["requests"] > 50
    assert 0 < test["watch"]["recall"] <= 1
    assert "ndcg" not in test["stars"]


def plain_ndcg(scores, labels, weights, requests) -> float:
    """NDCG@10, mean over requests with a positive; no two scores are equal."""
    found = []
    for key in np.unique(requests):
        rows = np.flatnonzero((requests == key) & (weights > 0))
        if not (labels[rows] > 0).any():
            continue
        ranked = labels[rows][np.argsort(-scores[rows])][:10]
        best = np.sort(labels[rows])[::-1][:10]
        discounts = 1 / np.log2(np.arange(len(ranked)) + 2)
        found.append((ranked * discounts).sum() / (best * discounts).sum())
    return float(np.mean(found))


def test_a_loss_within_requests_needs_their_column(data, tmp_path):
    config = mixed_config(tmp_path, data, '[objective.like]\nkind = "binary"\nwithin = "pairwise"\n')
    ended = run(1, "train", config)
    assert ended.codes != [0]
    assert "objective.like.within = 'pairwise' compares the samples of a request: name the column" in ended.text


def test_a_measure_that_no_task_has_is_refused(data, tmp_path):
    stop = "{metric='validation/accuracy', tasks=['like', 'seconds'], patience=2}"
    every = {"checkpoint__every_steps": 5}
    ended = run(1, "train", mixed_config(tmp_path, data), *settings(train__stop=stop, **every))
    assert ended.codes != [0]
    assert 'train.stop.metric = "validation/accuracy": none of the tasks like, seconds has this measure' in ended.text
    stop = "{metric='validation/auc', tasks=['like', 'seconds'], patience=2}"
    ended = run(1, "train", mixed_config(tmp_path, data), *settings(train__stop=stop, data__tasks="['like']", **every))
    assert "train.stop.tasks: 'seconds' is not among data.tasks" in ended.text
    ended = run(1, "train", mixed_config(tmp_path, data), *settings(checkpoint__best="ndcg", **every))
    assert 'checkpoint.best = "ndcg" is measured within requests: name their column in data.request' in ended.text


@pytest.mark.slow
def test_a_run_ends_on_its_best_checkpoint(data, tmp_path):
    """A learning rate that ruins it: later checkpoints are worse, and gone; the same command changes nothing."""
    config = mixed_config(tmp_path, data, batch_size=128)
    stop = "{metric='validation/mae', tasks=['seconds', 'by_duration'], patience=2}"
    options = settings(train__stop=stop, checkpoint__every_steps=6, train__epochs=40, train__lr=0.03, train__decay="none")
    ended = run(1, "train", config, *options)
    assert ended.codes == [0], ended.text
    told = json.loads((tmp_path / "run" / "stopped.json").read_text())
    assert re.search(rf"train\.stop: no better validation/mae than {told['value']:.4f} of step {told['step']}", ended.text)
    assert told["trained_to"] == told["step"] + 2 * 6
    assert newest(tmp_path).name == f"step-{told['step']:08d}"
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert evaluation["step"] == told["step"]
    means = [evaluation["validation"][task]["mae"] for task in ("seconds", "by_duration")]
    assert np.mean(means) == pytest.approx(told["value"], rel=1e-6)
    validations = [json.loads(x) for x in (tmp_path / "run" / "insight" / "validations.jsonl").read_text().splitlines()]
    by_step = {v["step"]: np.mean([v["tasks"][t]["mae"] for t in ("seconds", "by_duration")]) for v in validations}
    assert min(by_step, key=by_step.__getitem__) == told["step"]
    again = run(1, "train", config, *options)
    assert again.codes == [0]
    assert "nothing to do" in again.text
    # A kill before later checkpoints were removed: the same command removes them.
    later = newest(tmp_path).with_name(f"step-{told['trained_to']:08d}")
    shutil.copytree(newest(tmp_path), later)
    again = run(1, "train", config, *options)
    assert again.codes == [0], again.text
    assert "nothing to do" in again.text
    assert not later.exists()


@pytest.mark.slow
def test_the_report_and_tables_show_each_family(data, tmp_path):
    config = mixed_config(tmp_path, data, batch_size=128)
    options = settings(checkpoint__every_steps=6, checkpoint__best="xauc", train__epochs=1, insight__every_steps=5)
    ended = run(1, "train", config, *options)
    assert ended.codes == [0], ended.text
    for title in ("evaluation: test\n", "evaluation: test, numbers\n", "evaluation: test, classes\n"):
        assert title.strip() in ended.text
    page = tmp_path / "report.html"
    assert run(1, "inspect", tmp_path / "run", "--out", page).codes == [0]
    html = page.read_text()
    for shown in ("Evaluation: test, numbers", "Evaluation: test, classes", "Predicted numbers", "Validation over steps"):
        assert shown in html
    assert "seconds (s)" in html
    assert "XAUC per user" in html
    other = run(1, "train", config, *options, *settings(train__seed=1, run__dir=tmp_path / "other"))
    assert other.codes == [0], other.text
    compared = run(1, "inspect", tmp_path / "run", "--compare", tmp_path / "other", "--out", tmp_path / "two.html")
    assert compared.codes == [0], compared.text
    assert "<th>MAE " in (tmp_path / "two.html").read_text()
    told = run(1, "runs", tmp_path)
    assert "XAUC" in told.text


@pytest.mark.slow
def test_a_sweep_ranks_by_the_order_of_numbers(data, tmp_path):
    config = mixed_config(tmp_path, data, batch_size=256)
    ended = run(1, "sweep", config, "--grid", "train.lr=0.01,0.0001", "--by", "xauc", *settings(train__epochs=1), timeout=300)
    assert ended.codes == [0], ended.text
    assert "best on validation by mean XAUC: train.lr=0.01" in ended.text
    told = json.loads((tmp_path / "run" / "sweep.json").read_text())
    assert told["by"] == "xauc"
    assert set(told["tasks"]["validation"]["mae"]) == set(NUMBERS)
    assert told["differences"]["validation"]["train.lr=0.0001"]["xauc"]["estimate"] > 0
