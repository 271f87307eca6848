"""Hands a run's settings, figures and end to trackers: MLflow, Weights & Biases.

Training waits for none of them. Each has a thread of its own, and a queue of the newest figures: a tracker that is away is told
once and tried again, and what it misses in the meantime beyond the queue is lost to it alone. The tracker's run goes on where
this run resumes: its id is kept in the run's folder.
"""

import importlib.util
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol

from home_dist.config import LogSection, RunConfig, config_tree
from home_dist.config.written import flat
from home_dist.distributed.preemption import Preempted
from home_dist.errors import ConfigError
from home_dist.files.json_files import read_json, write_json
from home_dist.screen import Screen

KEPT = 1000
"""Calls that wait for a tracker at most; the oldest ones go."""
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0
"""Seconds between tries while a tracker is away: doubled each time."""
_LAST_WORDS = {"FINISHED": 20.0, "FAILED": 20.0, "KILLED": 5.0}
"""Seconds that a run waits at its end, for all trackers together, for what is still to be taken. They are few where it is asked
to leave: it is killed if it does not."""
FILE = "trackers.json"
"""In the run's folder: by tracker, where its run lies, and the run's id."""
_FILE_LOCK = threading.Lock()

Scalars = Mapping[str, float]


class Tracker(Protocol):
    """A client of one tracker. All of its methods are called by one thread, and may raise anything."""

    label: str
    """For messages."""
    place: dict[str, str]
    """Where its runs lie. A run that was begun at another place is not gone on with."""

    def open(self, known: str | None, settings: dict[str, str]) -> str:
        """Goes on with the run of id `known`, or begins one; returns its id. Called again where it failed."""
        ...

    def log(self, step: int, scalars: Scalars, milliseconds: int) -> None:
        """milliseconds: since 1970, when the figures were told."""
        ...

    def end(self, status: str) -> None:
        """status: "FINISHED", "FAILED", or "KILLED" for a run that was asked to leave."""
        ...


class Delivery:
    """The thread of one tracker, and its queue."""

    def __init__(self, tracker: Tracker, folder: Path, settings: dict[str, str], wait: float = _FIRST_WAIT):
        self.tracker, self._file, self._settings, self._first_wait = tracker, folder / FILE, settings, wait
        self._queue: deque[tuple[int, dict[str, float], int]] = deque(maxlen=KEPT)
        self._changed = threading.Condition()
        self._status: str | None = None
        self._given_up = False
        self.lost = 0
        """Calls whose figures the tracker will not get."""
        self.unsaid: list[str] = []
        """Lines for the screen."""
        self._told = False
        self._thread = threading.Thread(target=self._work, name=f"{tracker.label} tracker", daemon=True)
        self._thread.start()

    def hand(self, step: int, scalars: Scalars) -> None:
        """Returns at once."""
        known = {name: float(value) for name, value in scalars.items() if math.isfinite(value)}
        with self._changed:
            self.lost += len(self._queue) == KEPT
            self._queue.append((step, known, time.time_ns() // 10**6))
            self._changed.notify()

    def end(self, status: str) -> None:
        """Says how the run ended. Returns at once."""
        with self._changed:
            self._status = status
            self._changed.notify()

    def close(self, seconds: float) -> None:
        """After `end`: waits for what is still to be taken, no longer than `seconds`."""
        self._thread.join(seconds)
        with self._changed:
            self._given_up = True
            waiting = len(self._queue) if self._thread.is_alive() else 0
            if self.lost or self._thread.is_alive():
                sets = self.lost + waiting
                lost = f"{sets:,} set{'s' if sets > 1 else ''} of figures" if sets else "the run's end"
                self.unsaid.append(f"note: {self.tracker.label}: it did not take {lost}")

    def _work(self) -> None:
        if not self._tried(self._open):
            return
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._status is not None)
                entry = self._queue.popleft() if self._queue else None
            if entry is None:
                self._tried(lambda: self.tracker.end(self._status or "FINISHED"))
                return
            if not self._tried(partial(self.tracker.log, *entry)):
                self.lost += 1
                return

    def _open(self) -> None:
        before = read_json(self._file, "").get(self.tracker.label, {}) if self._file.is_file() else {}
        known = before.get("run") if before.get("place") == self.tracker.place else None
        run = self.tracker.open(known, self._settings)
        with _FILE_LOCK:
            tree = read_json(self._file, "")
            write_json(self._file, {**tree, self.tracker.label: {"place": self.tracker.place, "run": run}})

    def _tried(self, action: Callable[[], None]) -> bool:
        """Whether it succeeded before the run went."""
        wait = self._first_wait
        while True:
            try:
                action()
                return True
            except Exception as error:
                if not self._told:
                    self._told = True
                    first = (str(error) or type(error).__name__).splitlines()[0][:300].rstrip(".")
                    self.unsaid.append(f"note: {self.tracker.label}: {first}. It is tried again; training goes on")
            with self._changed:
                before = self._status
                self._changed.wait_for(partial(self._hurries, before), wait)
                if self._given_up:
                    return False
                wait = self._first_wait if self._status is not None else min(2 * wait, _LONGEST_WAIT)

    def _hurries(self, before: str | None) -> bool:
        """Whether the run has ended since, or goes."""
        return self._given_up or self._status != before


class Trackers:
    """All trackers of a run, on the first rank; elsewhere and by default none. As a context it tells them how the run ended."""

    def __init__(self, config: RunConfig, screen: Screen):
        self._config, self._screen = config, screen
        self._deliveries: list[Delivery] = []

    def begin(self) -> None:
        """Called before the first figures of a run."""
        if not self._deliveries:
            folder = Path(self._config.run.dir)
            settings = {key: str(value) for key, value in flat(config_tree(self._config)).items()}
            self._deliveries = [Delivery(t, folder, settings) for t in clients(self._config)]

    def hand(self, step: int, scalars: Scalars) -> None:
        for delivery in self._deliveries:
            delivery.hand(step, scalars)
        self._tell()

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        asked = isinstance(error, Preempted | KeyboardInterrupt)
        status = "FINISHED" if kind is None else "KILLED" if asked else "FAILED"
        until = time.monotonic() + _LAST_WORDS[status]
        for delivery in self._deliveries:
            delivery.end(status)
        for delivery in self._deliveries:
            delivery.close(max(0.0, until - time.monotonic()))
        self._tell()

    def _tell(self) -> None:
        for delivery in self._deliveries:
            while delivery.unsaid:
                self._screen.say(delivery.unsaid.pop(0))


def clients(config: RunConfig) -> list[Tracker]:
    found: list[Tracker] = []
    run = Path(config.run.dir)
    if config.log.mlflow is not None:
        from home_dist.training.track_mlflow import MlflowTracker

        found.append(MlflowTracker(config.log.mlflow, run))
    if config.log.wandb is not None:
        from home_dist.training.track_wandb import WandbTracker

        found.append(WandbTracker(config.log.wandb, run))
    return found


def check_installed(log: LogSection) -> None:
    """Raises ConfigError for a tracker whose package is missing."""
    for name in ("mlflow", "wandb"):
        if getattr(log, name) is not None and importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"log.{name}: the package {name} is not installed. pip install 'home_dist[{name}]', or leave log.{name} out"
            )
