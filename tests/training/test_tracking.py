"""What trackers are handed: all of it, in order, without waiting for one that is slow or away. Real ones: test_trackers.py."""

import sys
import threading
import time
from contextlib import nullcontext, suppress
from types import SimpleNamespace

import pytest

from home_dist.config import RunConfig
from home_dist.config.log import LogSection, MlflowSection
from home_dist.distributed.preemption import Preempted
from home_dist.errors import ConfigError, DataError
from home_dist.files.json_files import read_json
from home_dist.screen import Screen
from home_dist.training import tracking
from home_dist.training.track_mlflow import MlflowTracker
from home_dist.training.tracking import KEPT, Delivery, Trackers, check_installed


class Book:
    """A tracker in memory."""

    def __init__(self, label="Book", place="here", away=0):
        self.label, self.place, self.away = label, {"at": place}, away
        self.known, self.settings, self.figures, self.status = None, None, [], None
        self.gate = threading.Event()
        self.gate.set()

    def _there(self):
        self.gate.wait(20)
        if self.away:
            self.away -= 1
            raise ConnectionError("nobody\nanswers")

    def open(self, known, settings):
        self._there()
        self.known, self.settings = known, settings
        return known or f"run-{id(self)}"

    def log(self, step, scalars, milliseconds):
        self._there()
        self.figures.append((step, scalars))

    def end(self, status):
        self._there()
        self.status = status


def delivered(book, folder, calls=3, status="FINISHED"):
    delivery = Delivery(book, folder, {"model.kind": "home"}, wait=0.01)
    for step in range(1, calls + 1):
        delivery.hand(step, {"loss": 1 / step, "undefined": float("nan")})
    delivery.end(status)
    delivery.close(10)
    return delivery


def test_all_figures_arrive_in_order(tmp_path):
    book = Book()
    delivery = delivered(book, tmp_path)
    assert book.figures == [(step, {"loss": 1 / step}) for step in (1, 2, 3)]  # NaN is no value of a metric
    assert (book.settings, book.status, delivery.lost, delivery.unsaid) == ({"model.kind": "home"}, "FINISHED", 0, [])


def test_a_resumed_run_goes_on_with_its_own(tmp_path):
    first, again, elsewhere, other = Book(), Book(), Book(place="there"), Book(label="Ledger")
    for book in (first, other, again, elsewhere):
        delivered(book, tmp_path)
    assert (first.known, again.known, elsewhere.known, other.known) == (None, f"run-{id(first)}", None, None)
    assert set(read_json(tmp_path / tracking.FILE, "")) == {"Book", "Ledger"}


def test_one_that_comes_back_gets_all_of_it_and_is_told_once(tmp_path):
    book = Book(away=5)
    delivery = delivered(book, tmp_path, calls=4)
    assert [step for step, _ in book.figures] == [1, 2, 3, 4]
    assert delivery.unsaid == ["note: Book: nobody. It is tried again; training goes on"]


def test_one_that_stays_away_costs_neither_time_nor_memory(tmp_path):
    book = Book(away=10**9)
    delivery = Delivery(book, tmp_path, {}, wait=0.01)
    began = time.perf_counter()
    for step in range(KEPT + 500):
        delivery.hand(step, {"loss": 0.0})
    assert time.perf_counter() - began < 2
    delivery.end("FINISHED")
    delivery.close(0.1)
    told, lost = delivery.unsaid
    assert told.startswith("note: Book: nobody")
    assert lost == f"note: Book: it did not take {KEPT + 500:,} sets of figures"


def test_one_that_hangs_is_not_waited_for(tmp_path):
    book = Book()
    book.gate.clear()
    delivery = Delivery(book, tmp_path, {})
    began = time.perf_counter()
    for step in range(100):
        delivery.hand(step, {"loss": 0.0})
    delivery.end("FINISHED")
    delivery.close(0.1)
    assert time.perf_counter() - began < 2
    assert delivery.unsaid == ["note: Book: it did not take 100 sets of figures"]
    book.gate.set()


class Server:
    """Stands for mlflow, which is not among the pinned packages, and whose server does not fail when asked to."""

    def __init__(self, fails):
        self.fails, self.runs = fails, {}

    def client(self, tracking_uri):
        return self

    def get_run(self, run):
        return self.runs[run]

    def create_run(self, experiment, run_name):
        name = f"run-{len(self.runs)}"
        info = SimpleNamespace(run_id=name, lifecycle_stage="active")
        self.runs[name] = SimpleNamespace(info=info, data=SimpleNamespace(params={}), metrics=[])
        return self.runs[name]

    def get_experiment_by_name(self, name):
        return SimpleNamespace(experiment_id="1")

    def update_run(self, run, status):
        if self.runs[run].info.lifecycle_stage == "deleted":
            raise ValueError("The run must be in the 'active' state")

    def log_batch(self, run, params=(), tags=(), metrics=()):
        if params and self.fails:
            self.fails -= 1
            raise ConnectionError("half way")
        self.runs[run].metrics += [metric[1] for metric in metrics]

    def set_terminated(self, run, status, end_time):
        self.runs[run].info.status = status


@pytest.fixture
def mlflow(monkeypatch):
    server = Server(fails=3)
    kinds = {
        "mlflow": {},
        "mlflow.exceptions": {"MlflowException": type("MlflowException", (Exception,), {})},
        "mlflow.tracking": {"MlflowClient": server.client},
        "mlflow.entities": dict.fromkeys(("Param", "RunTag", "Metric"), lambda *values: values),
    }
    for name, values in kinds.items():
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**values))
    return server


def test_a_run_of_mlflow_is_begun_once(mlflow, tmp_path):
    section = MlflowSection(uri="http://x")
    delivered(MlflowTracker(section, tmp_path), tmp_path)
    assert [run.metrics for run in mlflow.runs.values()] == [[1, 1 / 2, 1 / 3]]
    mlflow.runs["run-0"].info.lifecycle_stage = "deleted"
    delivered(MlflowTracker(section, tmp_path), tmp_path)
    assert [(run.metrics, run.info.status) for run in mlflow.runs.values()] == [([1, 1 / 2, 1 / 3], "FINISHED")] * 2


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "FINISHED"), (DataError("x"), "FAILED"), (Preempted("x"), "KILLED"), (KeyboardInterrupt(), "KILLED")],
)
def test_how_a_run_ended(tmp_path, monkeypatch, error, status):
    book = Book()

    class Config:
        class run:  # noqa: N801
            dir = str(tmp_path)

    monkeypatch.setattr(tracking, "clients", lambda config: [book])
    monkeypatch.setattr(tracking, "config_tree", lambda config: {"train": {"lr": 0.1}, "sequence": [{"kind": "din"}]})
    with pytest.raises(type(error)) if error else nullcontext(), Trackers(Config(), Screen(True)) as trackers:
        trackers.begin()
        trackers.hand(1, {"loss": 2.0})
        if error is not None:
            raise error
    assert (book.status, book.figures) == (status, [(1, {"loss": 2.0})])
    assert book.settings == {"train.lr": "0.1", "sequence.0.kind": "din"}


@pytest.mark.parametrize(("name", "section"), [("mlflow", {"uri": "http://x"}), ("wandb", {"project": "x"})])
def test_a_missing_package_is_told_with_how_to_install_it(monkeypatch, name, section):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda asked: None)
    with pytest.raises(ConfigError, match=rf"log\.{name}: the package {name} .* pip install 'home_dist\[{name}\]'"):
        check_installed(LogSection.model_validate({name: section}))


def test_by_default_nothing_is_asked_for(monkeypatch):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda asked: None)
    check_installed(LogSection())


def test_no_password_stands_in_a_runs_files():
    with pytest.raises(ValueError, match="MLFLOW_TRACKING_PASSWORD"):
        LogSection.model_validate({"mlflow": {"uri": "https://me:secret@host/"}})


def test_trackers_that_are_away_share_the_few_seconds_of_a_run_that_is_asked_to_leave(tmp_path, monkeypatch):
    """torchrun kills a rank 30 s after SIGTERM, and its exit code 75 with it."""
    monkeypatch.setattr(tracking, "clients", lambda config: [Book("one", away=10**6), Book("two", away=10**6)])
    monkeypatch.setattr(tracking, "_LAST_WORDS", {"KILLED": 2.0})
    config = RunConfig.model_validate({"run": {"dir": str(tmp_path)}, "data": {"path": "d"}})
    began = time.monotonic()
    with suppress(Preempted), Trackers(config, Screen(False)) as trackers:
        trackers.begin()
        raise Preempted("asked to leave")
    assert time.monotonic() - began < 3.5  # one after the other it would be 4
