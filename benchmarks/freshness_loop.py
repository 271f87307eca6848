"""The loop of freshness.py and demo.py: a run that follows its data and publishes, its server, and who asks it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "examples" / "kuairand_pure"
CONFIG = ROOT / "configs" / "kuairand_pure.toml"


@dataclass
class Command:
    """A home-dist command, whose lines are read as they come."""

    name: str
    arguments: Sequence[str]
    lines: list[tuple[float, str]] = field(default_factory=list)
    """(seconds since 1970, line)"""
    process: "subprocess.Popen[str] | None" = None

    def start(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-W", "ignore", "-m", "home_dist.cli", *self.arguments]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()

    def _read(self, process: "subprocess.Popen[str]") -> None:
        for line in process.stdout or ():
            self.lines.append((time.time(), line.rstrip()))

    def wait_for(self, pattern: str, since: int = 0, seconds: float = 300) -> tuple[float, "re.Match[str]"]:
        """(when, match) of the first line from number `since` on. Raises RuntimeError if the command ends before."""
        deadline = time.monotonic() + seconds
        while True:
            ended = self.process is not None and self.process.poll() is not None
            for at, line in list(self.lines[since:]):
                if found := re.search(pattern, line):
                    return at, found
            if ended or time.monotonic() > deadline:
                tail = "\n".join(line for _, line in self.lines[-15:])
                raise RuntimeError(f"{self.name} never told {pattern!r}:\n{tail}")
            time.sleep(0.02)

    def end(self, sent: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(sent)
            self.process.wait(120)


@dataclass(frozen=True)
class Fresh:
    """From a new file to an answer that has learned from it, in seconds."""

    wait: float
    """Until training began on it."""
    train: float
    publish: float
    """Until the version was whole."""
    take: float
    """Until the server answered from it."""

    @property
    def seconds(self) -> float:
        return self.wait + self.train + self.publish + self.take


class Loop:
    def __init__(self, work: Path, options: Sequence[str] = (), serve: Sequence[str] = ()):
        self.work, self.data, self.versions = work, work / "data", work / "versions"
        follow = ["data.follow=rename", "data.follow_poll_seconds=0.5", "data.validation=''", "data.test=''", "train.epochs=1"]
        own = [f"run.dir={work / 'run'}", f"data.path={self.data}", f"publish.to={self.versions}", "publish.every_seconds=1"]
        sets = [*follow, *own, "train.decay=none", "log.every_steps=20", "insight.every_steps=0", *options]
        self.trainer = Command("the run", ["train", str(CONFIG), *(w for s in sets for w in ("--set", s))])
        quick = ["serve.poll_s=0.2", *serve]
        asked = ["serve", str(self.versions), "--port", "0", *(w for s in quick for w in ("--set", s))]
        self.server = Command("the server", asked)
        self.client = httpx.Client(timeout=60)
        self._files = 0

    def prepare(self, base: Sequence[Path], rows: int | None = None) -> int:
        """The folder that the run reads, with the base files. Returns their rows. rows: of each file, at most."""
        (self.data / "train").mkdir(parents=True)
        for name in ("schema.toml", "vocabularies"):
            (self.data / name).symlink_to(SAMPLE / name)
        return sum(self.deliver(pq.read_table(path).slice(0, rows)) for path in base)

    def deliver(self, table: pa.Table) -> int:
        """A new file of training data; appears by its final name once it is whole."""
        writing = self.work / "arriving.parquet"
        pq.write_table(table, writing)
        os.utime(writing)
        writing.rename(self.data / "train" / f"part-{self._files:05d}.parquet")
        self._files += 1
        return len(table)

    def start_serving(self) -> None:
        self.server.start()
        since = len(self.server.lines)
        _, found = self.server.wait_for(r"serving v\d+ on (http://127\.0\.0\.1:\d+)", since)
        self.url = found[1]

    def current(self) -> dict[str, Any] | None:
        """The manifest of the current version."""
        try:
            name = (self.versions / "current").read_text().split()[0]
            found: dict[str, Any] = json.loads((self.versions / name / "manifest.json").read_text())
            return found
        except (FileNotFoundError, IndexError):
            return None

    def wait_for_samples(self, samples: int, seconds: float = 400) -> dict[str, Any]:
        """The first version seen that was trained on so many."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            manifest = self.current()
            if manifest is not None and manifest["samples"] >= samples:
                return manifest
            if self.trainer.process is not None and self.trainer.process.poll() is not None:
                break
            time.sleep(0.05)
        tail = "\n".join(line for _, line in self.trainer.lines[-15:])
        raise RuntimeError(f"no version of {samples:,} samples came:\n{tail}")

    def freshness(self, table: pa.Table, before: int) -> Fresh:
        """Delivers a file, and waits until an answer comes from a version that was trained on it. before: samples so far."""
        since, arrived = len(self.trainer.lines), time.time()
        self.deliver(table)
        began, _ = self.trainer.wait_for(r"^round \d+: ", since)
        manifest = self.wait_for_samples(before + len(table))
        at, found = self.trainer.wait_for(rf"^published {manifest['version']} .* in ([\d.]+) s", since)
        trained = max(began, at - float(found[1]))
        number = int(manifest["version"][1:])
        while self.health()["version"] is None or int(self.health()["version"][1:]) < number:
            time.sleep(0.02)
        taken = time.time()
        return Fresh(began - arrived, trained - began, manifest["published"] - trained, taken - manifest["published"])

    def health(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.get(f"{self.url}/healthz").json()
        return answer

    def ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], float]:
        """(the answer, seconds)"""
        began = time.perf_counter()
        answer = self.client.post(f"{self.url}/predict", json=request)
        if answer.status_code != 200:
            raise RuntimeError(f"status {answer.status_code}: {answer.text[:300]}")
        return answer.json(), time.perf_counter() - began

    @contextmanager
    def running(self) -> Iterator["Loop"]:
        """Ends both commands."""
        try:
            yield self
        finally:
            self.trainer.end()
            self.server.end()
            self.client.close()


Rows = np.ndarray[Any, np.dtype[np.int64]]


def requests_of(table: pa.Table, columns: Sequence[str]) -> Iterator[tuple[Rows, dict[str, Any]]]:
    """(its rows, a request) per user of a table. columns: that the model reads. What is the same in all rows of the user is
    given once; lists are, if all of them are the same."""
    users = np.asarray(table["user"])
    order = np.argsort(users, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(users[order])) + 1):
        values = table.select(list(columns)).take(pa.array(rows)).to_pydict()
        once = {name for name, column in values.items() if name != "video" and all(v == column[0] for v in column)}
        lists = {name for name in columns if pa.types.is_list(table.schema.field(name).type)}
        if not lists <= once:
            once -= lists
        yield rows, {"user": {n: values[n][0] for n in once}, "candidates": {n: v for n, v in values.items() if n not in once}}


def fresh_folder(work: Path) -> Path:
    if work.exists():
        shutil.rmtree(work)
    work.mkdir(parents=True)
    return work
