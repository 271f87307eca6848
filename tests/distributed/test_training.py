"""Training on real process groups: the same on one and two ranks, exact after a stop, whole after a kill."""

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from home_dist.insight.trace import breakdown, read_trace
from tests.factory import make_config, make_data
from tests.ranks import Ended, finish, run, settings, start

pytestmark = pytest.mark.distributed

ROW_WISE = settings(embedding__tables__video__sharding="row_wise", embedding__tables__tag__sharding="data_parallel")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), rows=1500, files=3, row_group=60)


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    """Two ranks, never stopped, with every checkpoint kept; with dropout, whose random numbers must come back too.

    Some steps are traced, which must change nothing."""
    folder = tmp_path_factory.mktemp("undisturbed")
    config = make_config(folder, data, batch_size=32)
    options = [*ROW_WISE, *settings(checkpoint__every_steps=9, checkpoint__keep_last=100, embedding__dropout=0.1)]
    ended = run(2, "train", config, "--profile", "--profile-steps", 4, *options)
    assert ended.codes == [0, 0], ended.text
    return folder, options, ended


def test_traced_steps_are_told(undisturbed):
    folder, _, ended = undisturbed
    assert ended.outputs[0].count("where a step goes") == 1
    assert not ended.outputs[1]
    for rank in range(2):
        found = breakdown(read_trace(folder / "run" / "profile" / f"rank-{rank:05d}.json.gz"))
        assert found.steps == 4
        assert sum(found.parts.values()) == pytest.approx(found.milliseconds)
        assert min(found.parts[p] for p in ("input exchange", "look-up", "experts", "backward", "optimizer")) > 0
        assert {"all_to_all", "all_reduce"} <= set(found.exchanges)
        assert found.exchanges["all_to_all"].bytes > 0
        assert 0 <= found.hidden_share <= 1


def tensors(checkpoint: Path, scratch: Path) -> dict[str, torch.Tensor]:
    dcp_to_torch_save(checkpoint, scratch / "whole.pt")
    flat = {}

    def walk(tree, name):
        if isinstance(tree, dict):
            for key, value in tree.items():
                walk(value, f"{name}/{key}")
        elif isinstance(tree, torch.Tensor):
            flat[name] = tree

    walk(torch.load(scratch / "whole.pt", weights_only=False), "")
    return flat


def newest(folder: Path) -> Path:
    return max((folder / "run" / "checkpoints").glob("step-*"))


def continued(source: Path, target: Path, data: Path, after: int) -> Path:
    """A copy of a run as it was when its checkpoint of step `after` was the newest; returns its configuration."""
    shutil.copytree(source / "run", target / "run")
    for checkpoint in (target / "run" / "checkpoints").iterdir():
        if int(checkpoint.name.split("-")[1]) > after:
            shutil.rmtree(checkpoint)
    (target / "run" / "evaluation.json").unlink()
    return make_config(target, data, batch_size=32)


def test_one_and_two_ranks_give_the_same_loss_curve_and_parameters(data, tmp_path):
    losses, parameters = [], []
    for ranks, batch in ((1, 64), (2, 32)):
        folder = tmp_path / str(ranks)
        ended = run(ranks, "train", make_config(folder, data, batch_size=batch), *ROW_WISE)
        assert ended.codes == [0] * ranks, ended.text
        losses.append({s: float(loss) for s, loss in ended.losses().items()})
        parameters.append(tensors(newest(folder), tmp_path))
    assert losses[0].keys() == losses[1].keys() == set(range(1, 49))
    assert losses[0] == pytest.approx(losses[1], abs=2e-4)
    assert min(losses[0].values()) < losses[0][1] - 0.3  # it learned something, so that the comparison means something
    for name in parameters[0].keys() | parameters[1].keys():
        torch.testing.assert_close(
            parameters[0][name], parameters[1][name], rtol=2e-3, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("after", [9, 27])  # within the first and within the second epoch
def test_a_stopped_run_goes_on_bit_for_bit(after, undisturbed, data, tmp_path):
    source, options, whole = undisturbed
    ended = run(2, "train", continued(source, tmp_path, data, after), *options)
    assert ended.codes == [0, 0], ended.text
    assert f"resuming from {tmp_path}/run/checkpoints/step-{after:08d}" in ended.text
    assert ended.losses() == {s: loss for s, loss in whole.losses().items() if s > after}
    expected, found = tensors(newest(source), tmp_path), tensors(newest(tmp_path), tmp_path)
    assert expected.keys() == found.keys()
    assert [n for n in expected if not torch.equal(expected[n], found[n])] == []
    measured = [json.loads((f / "run" / "evaluation.json").read_text()) for f in (source, tmp_path)]
    assert measured[0] == measured[1]


def test_a_run_goes_on_on_another_number_of_ranks(data, tmp_path):
    """With the same global batch the curve is the same; tables change from two shards to one."""
    config = make_config(tmp_path, data, batch_size=32)
    first = run(2, "train", config, *ROW_WISE, *settings(train__max_steps=11))
    assert first.codes == [0, 0], first.text
    two = run(2, "train", make_config(tmp_path / "whole", data, batch_size=32), *ROW_WISE, *settings(train__max_steps=11))
    shutil.rmtree(tmp_path / "whole")
    assert two.losses() == first.losses()
    ended = run(1, "train", config, *ROW_WISE, *settings(train__batch_size=64))
    assert ended.codes == [0], ended.text
    assert sorted(ended.losses()) == list(range(12, 49))


@pytest.mark.slow  # tests/e2e does the same to the sample
def test_a_complete_run_is_not_overwritten(undisturbed, data):
    source, options, _ = undisturbed
    before = sorted((p, p.stat().st_mtime_ns) for p in (source / "run" / "checkpoints").rglob("*"))
    ended = run(2, "train", source / "run.toml", *options)
    assert ended.codes == [0, 0], ended.text
    assert "run complete" in ended.outputs[0]
    assert before == sorted((p, p.stat().st_mtime_ns) for p in (source / "run" / "checkpoints").rglob("*"))
    other = run(2, "train", source / "run.toml", *options, *settings(train__lr=0.5))
    assert 0 not in other.codes
    assert "train.lr: 0.01 there, 0.5 now" in other.text


def test_a_killed_rank_ends_the_job_and_the_same_command_finishes_it(undisturbed, data, tmp_path):
    source, options, whole = undisturbed
    arguments = ("train", make_config(tmp_path, data, batch_size=32), *options)
    processes = start(2, *arguments)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("run/checkpoints/step-*/manifest.json")):
        assert time.monotonic() < deadline
        assert all(p.poll() is None for p in processes)
        time.sleep(0.01)
    processes[1].kill()
    ended = finish(processes, timeout=60)
    assert all(code != 0 for code in ended.codes)
    assert "lost contact with another rank" in ended.outputs[0]
    assert "start the same command again" in ended.outputs[0]
    assert "Traceback" not in ended.outputs[0]

    again = run(2, *arguments)
    assert again.codes == [0, 0], again.text
    assert "resuming from" in again.outputs[0]
    assert set(again.losses().items()) <= set(whole.losses().items())
    expected, found = tensors(newest(source), tmp_path), tensors(newest(tmp_path), tmp_path)
    assert [n for n in expected if not torch.equal(expected[n], found[n])] == []


@pytest.mark.slow
def test_a_damaged_checkpoint_is_refused_by_name(undisturbed, data, tmp_path):
    source, options, _ = undisturbed
    config = continued(source, tmp_path, data, 18)
    shard = next((tmp_path / "run" / "checkpoints" / "step-00000018").glob("__1_*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    ended: Ended = run(2, "train", config, *options)
    assert 0 not in ended.codes
    assert f"{shard}: damaged checkpoint: its content has changed" in ended.text
    assert "Traceback" not in ended.text
    shutil.rmtree(shard.parent)
    assert "step-00000009" in run(2, "train", config, *options).text


@pytest.mark.parametrize("rows", [1, 5])
def test_very_few_rows(rows, tmp_path):
    data = make_data(tmp_path / "data", rows=rows, files=1)
    ended = run(2, "train", make_config(tmp_path, data), timeout=60)
    assert ended.codes == [0, 0], ended.text
    assert "nan" not in ended.text.lower()


def test_evaluate_gives_the_figures_of_training_on_another_number_of_ranks(undisturbed, data):
    source, _, whole = undisturbed
    ended = run(1, "evaluate", source / "run")
    assert ended.codes == [0], ended.text
    tables = [t[t.index("evaluation: validation") :].splitlines() for t in (whole.outputs[0], ended.outputs[0])]
    rows = [[line for line in table if line.startswith("│")] for table in tables]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 8  # three tasks and their mean, on two splits


def test_hosts_of_different_sizes_and_tables_of_fewer_rows_than_ranks(data, tmp_path):
    """TorchRec would take each rank's host to be as large as its own. A rank without rows of a table looks at none."""
    few = settings(
        embedding__replicate_rows=0, train__max_steps=4, checkpoint__every_steps=2, data__validation="", data__test=""
    )
    pins = settings(
        embedding__tables__user__sharding="table_row_wise",
        embedding__tables__video__sharding="row_wise",
        embedding__tables__video__keep_rows=2,
    )
    ended = run(3, "train", make_config(tmp_path, data, batch_size=16), *few, *pins, per_host=(2, 1), timeout=90)
    assert ended.codes == [0, 0, 0], ended.text
    assert newest(tmp_path).name == "step-00000004"
