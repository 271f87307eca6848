"""What an interval adds up over steps and ranks, auxiliary losses included, and where it is shown."""

import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from home_dist.insight.store import Names, PartNames
from home_dist.metrics import TaskMetrics
from home_dist.network import StepOutput
from home_dist.training import progress
from home_dist.training.events import EventLog
from tests.ranks import spawn


def output(loss: float, penalty: float | None) -> StepOutput:
    auxiliary = {} if penalty is None else {"l2_constraint": torch.tensor(penalty)}
    sums, weights = torch.tensor([loss * 4, 2.0]), torch.tensor([4.0, 2.0])
    return StepOutput(*torch.zeros(3, 4, 2), sums, weights, torch.tensor(4.0), 0, 1, auxiliary)


def _body(rank: int, world: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = dist.FileStore(f"{folder}/store", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    meter = progress.Meter(2)
    for step in range(3):
        meter.add(output(1.0, 2.0 + 3 * rank + step))
    first = meter.close(0.0)
    meter.add(output(3.0, 10.0 * rank))
    second = meter.close(0.0)
    meter.add(output(3.0, None))
    torch.save([first, second, meter.close(0.0)], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.distributed
def test_means_over_steps_and_ranks(tmp_path):
    spawn(_body, 2, 2, str(tmp_path))
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2))
    assert [i.auxiliary for i in one] == [i.auxiliary for i in two]
    assert one[0].auxiliary == pytest.approx({"l2_constraint": (2 + 3 + 4 + 5 + 6 + 7) / 6})
    assert one[1].auxiliary == pytest.approx({"l2_constraint": 5.0})  # of its own steps alone
    assert one[2].auxiliary == {}
    assert one[0].task_losses == pytest.approx([1.0, 1.0])
    assert one[1].task_losses == pytest.approx([3.0, 1.0])


def test_where_they_are_shown(tmp_path):
    interval = progress.IntervalFigures(1.5, [1.5], 1000.0, 0.01, {"l2_constraint": 0.0123})
    assert "loss 1.5000 + l2_constraint 0.0123" in progress.parts(2, 4, interval, 1, 10)
    plain = progress.IntervalFigures(1.5, [1.5], 1000.0, 0.01)
    assert "loss 1.5000" in progress.parts(2, 4, plain, 1, 10)
    log = EventLog(tmp_path, 0)
    log.step(2, interval, 0.1, ["like"])
    log.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Scalars("train_auxiliary/l2_constraint")[0].value == pytest.approx(0.0123)


def test_plots_are_defined_with_the_first_event_and_nothing_is_written_before(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventLog(tmp_path, 0)
    part = PartNames(["a", "b"], ["shared"] * 2, ["all"] * 2, ["like"], [0], [[True, True]], ["a", "b"], True)
    log.layout(Names(["like"], ["all"], [part], []))
    log.close()
    assert not list(tmp_path.iterdir())
    log.bad_rows(3, "train", 1)
    log.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Scalars("train/bad_rows")[0].value == 1
    [event] = events.Tensors("custom_scalars__config__")
    plots = event.tensor_proto.string_val[0]
    assert all(name in plots for name in (b"expert_std/a", b"gate_effective_experts/like", b"train_auc/like"))


def test_a_process_knows_its_age():
    began = time.perf_counter()
    code = "import time; from home_dist import process; a = process.age(); time.sleep(0.5); print(a, process.age() - a)"
    first, later = map(float, subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.split())
    assert 0 <= first < time.perf_counter() - began
    assert 0.45 < later < time.perf_counter() - began


def test_means_over_tasks_stand_beside_the_tasks(tmp_path):
    """Each metric's is over the tasks for which it is defined, as in the run's table."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def of_task(task, auc, gauc, log_loss, calibration):
        return TaskMetrics(task, 10, 3, auc, gauc, 2, 1, log_loss, 0.9, calibration, 0.1)

    log = EventLog(tmp_path, 0)
    log.evaluation(7, "test", [of_task("like", 0.6, math.nan, 0.25, 1.5), of_task("watch", 0.9, 0.5, 0.75, 0.5)])
    log.evaluation(9, "test", [of_task("like", math.nan, math.nan, 0.25, 1.5), of_task("watch", 0.9, math.nan, 0.5, 0.5)])
    log.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    means = {}
    for metric in ("auc", "gauc", "log_loss", "calibration"):
        assert [e.step for e in events.Scalars(f"test_{metric}/like")] == [7, 9]
        scalars = events.Scalars(f"test_{metric}/mean")
        assert [e.step for e in scalars] == [7, 9]
        means[metric] = [e.value for e in scalars]
    assert means["auc"] == pytest.approx([0.75, 0.9])
    assert means["gauc"] == pytest.approx([0.5, math.nan], nan_ok=True)
    assert means["log_loss"] == pytest.approx([0.5, 0.375])
    assert means["calibration"] == pytest.approx([1.0, 1.0])


class Queued(torch.Tensor):
    """A tensor of a device whose queue of steps is done at `until`."""

    until = 0.0

    def cpu(self):
        time.sleep(max(0.0, Queued.until - time.perf_counter()))
        return torch.Tensor.cpu(self).as_subclass(torch.Tensor)


def test_a_rate_counts_until_the_device_is_done():
    """Launching 20 steps takes no time; the device needs 0.2 s for them, and 0.2 s for the slow steps before."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    meter = progress.Meter(2)

    def launch(steps: int) -> None:
        Queued.until = max(time.perf_counter(), Queued.until) + 0.01 * steps
        for _ in range(steps):
            queued = replace(output(1.0, None))
            meter.add(replace(queued, loss_sums=queued.loss_sums.as_subclass(Queued)))

    launch(20)
    meter.restart_clock()
    launch(20)
    rate = meter.close(0.0).samples_per_second
    dist.destroy_process_group()
    assert 20 * 4 / 0.4 < rate <= 20 * 4 / 0.19
