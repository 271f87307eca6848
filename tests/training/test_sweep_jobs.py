"""A sweep whose runs are jobs of torchx's local scheduler: real jobs, and the same results as one after the other."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from home_dist.errors import ConfigError, UserError
from home_dist.screen import Screen
from home_dist.training import sweep_jobs
from home_dist.training.sweep import SweepFailed, plan, sweep
from home_dist.training.sweep_jobs import JOBS_FILE, JobSettings, SweepStopped, TorchxEngine
from tests.factory import make_config, make_data
from tests.ranks import REPOSITORY, run, settings
from tests.training.test_sweep import ended_run


class Scheduler:
    """In place of torchx's runner: jobs whose states a test lists. The last state stays."""

    def __init__(self, states, on_state=lambda handle, state: None):
        self.states, self.on_state = {f"slurm://torchx/{n}": list(s) for n, s in enumerate(states)}, on_state
        self.submitted, self.cancelled, self.most = [], [], 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def run_component(self, component, arguments, scheduler, options):
        self.submitted.append(arguments)
        self.most = max(
            self.most, sum(s[0] in ("PENDING", "RUNNING") for s in list(self.states.values())[: len(self.submitted)])
        )
        return list(self.states)[len(self.submitted) - 1]

    def status(self, handle):
        states = self.states[handle]
        state = states.pop(0) if len(states) > 1 else states[0]
        if isinstance(state, BaseException):
            raise state
        self.on_state(handle, state)
        ended = state in ("SUCCEEDED", "FAILED", "CANCELLED")
        return SimpleNamespace(state=SimpleNamespace(name=state), ui_url=None, is_terminal=lambda: ended)

    def cancel(self, handle):
        self.cancelled.append(handle)


def planned_sweep(tmp_path, runs):
    config = make_config(tmp_path, make_data(tmp_path / "data", rows=8, files=1))
    return config, plan(config, [], runs, [])


def engine(scheduler, **changes):
    made = TorchxEngine(JobSettings("slurm", **changes), 0.001)
    made._runner = scheduler
    return made


def completing(planned):
    """Writes a run's folder when its job succeeds."""

    def on_state(handle, state):
        if state == "SUCCEEDED":
            run_of_sweep = planned[int(handle.rpartition("/")[2])]
            if not run_of_sweep.complete:
                ended_run(run_of_sweep, {"validation": 1.0, "test": 0.5})

    return on_state


def test_at_most_so_many_jobs_at_a_time_and_each_run_once(tmp_path, capfd):
    config, planned = planned_sweep(tmp_path, 4)
    scheduler = Scheduler([["PENDING", "RUNNING", "SUCCEEDED"]] * 4, completing(planned))
    sweep(config, planned, engine(scheduler, at_once=2), "auc", Screen(True))
    assert scheduler.most == 2
    assert [a[a.index("--set") + 1 :] for a in scheduler.submitted] == [list(p.overrides) for p in planned]
    assert json.loads((tmp_path / "run" / "sweep.json").read_text())["best"] == "as configured"
    sweep(config, planned, engine(scheduler, at_once=2), "auc", Screen(True))
    assert len(scheduler.submitted) == 4  # none again
    assert "[4/4] seed 3: job slurm://torchx/3 is RUNNING" in capfd.readouterr().out


def test_failed_and_lost_jobs_are_told_with_their_logs(tmp_path, monkeypatch):
    monkeypatch.setattr("home_dist.training.sweep_jobs._LOST_AFTER", 0.05)
    config, planned = planned_sweep(tmp_path, 4)
    cancelled_by_hand = AssertionError("failed to translate slurm state CANCELLED by 0 to torchx state")
    states = [["RUNNING", "FAILED"], ["RUNNING", "UNKNOWN"], ["PENDING", cancelled_by_hand], ["RUNNING", OSError("no sacct")]]
    failed = engine(Scheduler(states)).train(config, [(p.name, p) for p in planned], Screen(False))
    told = {text.partition(" (")[0]: text for text in failed}
    assert "job slurm://torchx/0 failed; its log: " in told["seed 0"]
    assert "slurm-0-train-0.out" in told["seed 0"]
    assert "lost: slurm knows no more of it (its state is unknown)" in told["seed 1"]
    assert "job slurm://torchx/2 cancelled" in told["seed 2"]
    assert "lost: slurm knows no more of it (no sacct)" in told["seed 3"]


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED"])
def test_a_job_that_fails_after_its_run_is_complete_has_not_failed(state, tmp_path):
    config, planned = planned_sweep(tmp_path, 1)

    def on_state(handle, told):
        if told == state:
            ended_run(planned[0], {"validation": 1.0, "test": 0.5})

    failed = engine(Scheduler([["RUNNING", state]], on_state)).train(config, [("seed 0", planned[0])], Screen(False))
    assert failed == []


@pytest.mark.parametrize("broken", ["evaluation.json", "config.toml", "no config.toml"])
def test_a_broken_folder_fails_its_run_alone(broken, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_jobs, "_SEEN_WITHIN", 0.01)
    config, planned = planned_sweep(tmp_path, 2)

    def on_state(handle, state):
        if handle.endswith("1") or state != "SUCCEEDED":
            completing(planned)(handle, state)
        elif not planned[0].folder.exists():
            ended_run(planned[0], {"validation": 1.0, "test": 0.5})
            file = planned[0].folder / broken.removeprefix("no ")
            file.unlink() if broken.startswith("no ") else file.write_text("{")

    scheduler = Scheduler([["RUNNING", *["SUCCEEDED"] * 9], ["RUNNING"] * 9 + ["SUCCEEDED"]], on_state)
    with pytest.raises(SweepFailed, match=rf"1 of 2 runs failed: seed 0 .*{broken.removeprefix('no ')}"):
        sweep(config, planned, engine(scheduler), "auc", Screen(False))
    assert planned[1].complete
    with pytest.raises(ConfigError, match=broken.removeprefix("no ")):  # told before anything is trained
        sweep(config, planned, engine(Scheduler([])), "auc", Screen(False))


def test_a_job_of_another_configuration_is_not_followed(tmp_path):
    config, planned = planned_sweep(tmp_path, 2)
    killed = engine(Scheduler([["RUNNING"]]), at_once=1)
    killed._look = lambda *_: (_ for _ in ()).throw(MemoryError())
    with pytest.raises(MemoryError):
        killed.train(config, [(run.name, run) for run in planned], Screen(False))
    changed = plan(config, [], 2, ["train.epochs=7"])
    assert [c.folder for c in changed] == [p.folder for p in planned]
    scheduler = Scheduler([["RUNNING"]])
    with pytest.raises(UserError, match=r"job .* trains there with another configuration, and is RUNNING.*torchx cancel"):
        engine(scheduler).train(config, [(run.name, run) for run in changed], Screen(False))
    assert scheduler.submitted == []


def test_a_job_of_an_earlier_command_is_followed(tmp_path):
    config, planned = planned_sweep(tmp_path, 2)
    killed = engine(Scheduler([["RUNNING", MemoryError()]]), at_once=1)
    killed._look = lambda *_: (_ for _ in ()).throw(MemoryError())  # the command ends at once, and cancels nothing
    with pytest.raises(MemoryError):
        killed.train(config, [(p.name, p) for p in planned], Screen(False))
    noted = json.loads((tmp_path / "run" / JOBS_FILE).read_text())
    assert {folder: note["job"] for folder, note in noted.items()} == {str(planned[0].folder): "slurm://torchx/0"}
    scheduler = Scheduler([["RUNNING", "RUNNING", "SUCCEEDED"], ["SUCCEEDED"]], completing(planned))
    scheduler.submitted.append(None)  # the followed one
    sweep(config, planned, engine(scheduler), "auc", Screen(False))
    assert len(scheduler.submitted) == 2
    assert f"run.dir={planned[1].folder}" in scheduler.submitted[1]


def test_ctrl_c_cancels(tmp_path):
    config, planned = planned_sweep(tmp_path, 3)

    def interrupt(handle, state):
        raise KeyboardInterrupt

    scheduler = Scheduler([["RUNNING"]] * 3, interrupt)
    with pytest.raises(SweepStopped, match=r"2 jobs cancelled, 1 runs not submitted. The same command goes on"):
        engine(scheduler, at_once=2).train(config, [(p.name, p) for p in planned], Screen(False))
    assert scheduler.cancelled == ["slurm://torchx/0", "slurm://torchx/1"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scheduler": "pbs"}, "--scheduler pbs: torchx has no such scheduler. Choose one of .*slurm"),
        ({"options": ("queue=x",)}, "--scheduler-option queue=x: write it as KEY=VALUE with a key of local_cwd: log_dir"),
        ({"component": ("gpu",)}, "--component-option gpu: write it as KEY=VALUE"),
        ({"component": ("config=a",)}, "the sweep sets config itself"),
        ({"component": ("j=1x2",), "ranks": 2}, "both set processes"),
    ],
)
def test_what_has_no_effect_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        TorchxEngine(JobSettings(**changes))


def test_options_of_torchx_without_torchx_are_refused(tmp_path):
    config, _ = planned_sweep(tmp_path, 1)
    ended = run(1, "sweep", config, "--at-once", 2)
    assert ended.codes == [2]
    assert "need --engine torchx" in ended.text


@pytest.mark.slow
@pytest.mark.distributed
def test_local_jobs_give_what_runs_one_after_the_other_give(tmp_path):
    data = make_data(tmp_path / "data", rows=200, files=1)
    few = settings(train__max_steps=2)
    grid = ["--grid", "model.kind=shared_bottom,mmoe", *few]
    found = {}
    for name, more in (("one", []), ("jobs", ["--engine", "torchx", "--at-once", 2])):
        folder = tmp_path / name
        folder.mkdir()
        config = make_config(folder, data)
        ended = run(1, "sweep", config, *grid, *more, timeout=300)
        assert ended.codes == [0], ended.text
        tree = json.loads((folder / "run" / "sweep.json").read_text())
        found[name] = tree["settings"], tree["differences"], tree["best"]
    assert found["jobs"] == found["one"]
    assert "submitted" in ended.text
    again = run(1, "sweep", config, *grid, "--engine", "torchx", timeout=300)
    assert again.codes == [0], again.text
    assert again.text.count(": complete") == 2
    assert "submitted" not in again.text


@pytest.mark.distributed
def test_a_failed_local_job_is_told_with_its_log(tmp_path):
    config = make_config(tmp_path, make_data(tmp_path / "data", rows=100, files=1))
    ended = run(1, "sweep", config, "--engine", "torchx", *settings(data__exclude="['nothing']"))
    assert ended.codes == [6], ended.text
    log = ended.text.partition("its log: ")[2].splitlines()[0].rstrip(")")
    assert any("nothing" in p.read_text() for p in Path(log).rglob("std*.log")), log


@pytest.mark.slow
@pytest.mark.distributed
def test_ctrl_c_leaves_no_local_job_and_the_same_command_goes_on(tmp_path):
    config = make_config(tmp_path, make_data(tmp_path / "data", rows=2000, files=1))
    many = settings(train__max_steps=100_000, train__epochs=1000)
    command = [sys.executable, "-m", "home_dist.cli", "sweep", str(config), "--engine", "torchx", *many]
    command += ["--scheduler-option", f"log_dir={tmp_path / 'logs'}"]
    with (tmp_path / "told").open("w+") as told:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=told, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + 120
            while not any("step " in p.read_text() for p in (tmp_path / "logs").glob("**/std*.log")):
                assert time.monotonic() < deadline, (tmp_path / "told").read_text()
                assert process.poll() is None, (tmp_path / "told").read_text()
                time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
        finally:
            process.terminate()
            process.wait(20)
    text = (tmp_path / "told").read_text()
    assert "1 jobs cancelled, 0 runs not submitted. The same command goes on" in text
    assert list((tmp_path / "run").glob("*/*/checkpoints/step-*")), text
