"""Runs with insight on real ranks: the same training bit for bit, records of all ranks, and after a resume each record once."""

import json
import shutil

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from home_dist.insight.clock import PARTS
from home_dist.insight.run_files import CURVES, TABLES
from home_dist.insight.store import InsightStore
from home_dist.metrics import auc, evaluate_tasks
from tests.distributed.test_training import newest, tensors
from tests.factory import make_config
from tests.insight.conftest import OPTIONS, WATCHED
from tests.ranks import run, settings

pytestmark = pytest.mark.distributed


def test_training_is_the_same_bit_for_bit(watched, data, tmp_path):
    folder, with_insight = watched
    ended = run(2, "train", make_config(tmp_path, data, batch_size=32), *OPTIONS, *settings(insight__every_steps=0))
    assert ended.codes == [0, 0], ended.text
    assert ended.losses() == with_insight.losses()
    expected, found = tensors(newest(tmp_path), tmp_path), tensors(newest(folder), tmp_path)
    assert expected.keys() == found.keys()
    assert [n for n in expected if not torch.equal(expected[n], found[n])] == []
    assert not (tmp_path / "run" / "insight").exists()


def test_records_are_there(watched):
    folder, ended = watched
    store = InsightStore(folder / "run" / "insight")
    names, records = store.names(), store.records()
    assert [r.step for r in records] == [3, 6, 9, 12, 15, 18, 21]
    assert names.tasks == ["like", "follow", "watch"]
    assert names.parts[0].gates == ["meta/interaction", "meta/passive", "meta/shared"]
    assert "rate" in names.features
    for record in records:
        weight = record.figures["1.weight"]
        assert weight.sum(1) == pytest.approx(np.ones(3), abs=1e-5)
        assert (weight[~np.array(names.parts[1].sees)] == 0).all()
        assert record.figures["0.histogram"].sum(1) == pytest.approx(np.ones(6), abs=1e-5)
        assert record.figures["0.scale"].shape == (3, len(names.features))
        assert 0.2 < record.figures["positives"][2] < 0.8
        seconds = record.figures["seconds"]
        assert len(seconds) == len(PARTS)
        assert (seconds > 0).all()
        assert seconds.sum() < 60
    curves = store.lines(CURVES)
    assert [c["step"] for c in curves] == list(range(1, 23))
    assert curves[4]["loss"] == pytest.approx(sum(curves[4]["task_losses"].values()))
    assert curves[-1]["loss"] == pytest.approx(float(ended.losses()[22]), abs=1e-4)
    assert max(c["insight"] for c in curves) > 0
    for name, low, high in (("auc", 0, 1), ("normalized_entropy", 0, 5), ("calibration", 0, 5)):
        values = [c["running"][name]["watch"] for c in curves]
        assert all(low < v < high for v in values), (name, values)


def test_tables_are_looked_at_with_each_checkpoint(watched):
    folder, _ = watched
    lines = InsightStore(folder / "run" / "insight").lines(TABLES)
    assert [(line["step"], line["epoch_over"]) for line in lines] == [(10, False), (20, True), (22, True)]
    untouched = [{t["table"]: t["untouched"] for t in line["tables"]} for line in lines]
    assert untouched[0].keys() == {"user", "video", "tag"}
    for table in untouched[0]:
        assert 1 > untouched[0][table] > untouched[1][table] > 0
        assert untouched[1][table] >= untouched[2][table]
    assert all(t["growth"] > 0.5 and t["broken"] == 0 for t in lines[-1]["tables"])


def test_evaluation_has_slices_calibration_and_scores(watched, tmp_path):
    folder, ended = watched
    tree = json.loads((folder / "run" / "evaluation.json").read_text())
    with np.load(folder / "run" / "scores" / "test.npz") as file:
        scores = {name: file[name] for name in file.files}
    columns = (scores[name] for name in ("labels", "weights", "scores", "groups"))
    for metrics in evaluate_tasks(["like", "follow", "watch"], *columns):  # in one process, from scores of fp32
        told = tree["test"][metrics.task]
        for name in ("auc", "gauc", "gauc_groups", "gauc_groups_left_out", "log_loss", "calibration_error"):
            assert told[name] == pytest.approx(getattr(metrics, name), rel=1e-5), (metrics.task, name)
    assert scores["scores"].shape == (175, 3)
    assert tree["test"]["like"]["auc"] == pytest.approx(auc(scores["labels"][:, 0], scores["scores"][:, 0]), abs=1e-6)
    by_tab = [s for s in tree["slices"]["test"] if s["feature"] == "tab"]
    assert [s["value"] for s in by_tab] == [0, 1, 2, 3, 4]
    assert sum(s["samples"] for s in by_tab) == 175
    assert {s["feature"] for s in tree["slices"]["test"]} == {"tab", "rate"}
    curve = tree["calibration"]["test"]["watch"]
    assert sum(curve["weight"]) == tree["test"]["watch"]["samples"]
    assert "evaluation: test, by tab" in ended.text


def test_a_feature_that_cannot_cut_a_split_is_refused(data, tmp_path):
    ended = run(1, "train", make_config(tmp_path, data), *settings(metrics__slices="['video']"))
    assert ended.codes == [2]
    assert "metrics.slices: 'video' cannot cut a split" in ended.text
    assert "statistics: tab, rate" in ended.text


def test_tensorboard_has_curves_histograms_and_gates(watched):
    folder, _ = watched
    events = EventAccumulator(str(folder / "run" / "tensorboard"), size_guidance={"histograms": 0, "images": 0})
    events.Reload()
    tags = events.Tags()
    assert {"expert_std/meta/shared 0", "gate_effective_experts/task/like"} <= set(tags["scalars"])
    assert "outputs/task/watch 0" in tags["histograms"]
    assert [e.step for e in events.Images("gates/layer_1")] == [3, 6, 9, 12, 15, 18, 21]
    assert events.Images("gates/layer_1")[0].height == 3 * 24


def test_a_resumed_run_has_each_record_once(watched, data, tmp_path):
    folder, _ = watched
    shutil.copytree(folder / "run", tmp_path / "run")
    for checkpoint in (tmp_path / "run" / "checkpoints").iterdir():
        if not checkpoint.name.endswith("00000010"):
            shutil.rmtree(checkpoint)
    with (tmp_path / "run" / "insight" / CURVES).open("a") as file:
        file.write('{"step": 23, "lo')  # the run was killed while it wrote
    ended = run(2, "train", make_config(tmp_path, data, batch_size=32), *OPTIONS, *WATCHED)
    assert ended.codes == [0, 0], ended.text
    assert "resuming from" in ended.text
    stores = [InsightStore(f / "run" / "insight") for f in (folder, tmp_path)]
    for one, two in zip(*(s.records() for s in stores), strict=True):
        assert one.step == two.step
        assert all(np.array_equal(one.figures[name], two.figures[name]) for name in one.figures if name != "seconds")
    assert stores[0].lines(TABLES) == stores[1].lines(TABLES)
    losses = [[(c["step"], c["task_losses"], str(c["running"])) for c in s.lines(CURVES)] for s in stores]
    assert losses[0] == losses[1]
    assert json.loads((tmp_path / "run" / "insight" / CURVES).read_text().splitlines()[-1])["step"] == 22
