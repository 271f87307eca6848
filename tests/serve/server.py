"""A server of published versions, started as a user starts it, and what tests ask it."""

import re
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.forked import REPOSITORY, popen
from tests.ranks import settings

USER = ("user", "tags", "levels", "watched_video", "watched_level", "age")
"""Columns of the generated data that tests give once per request; "age" is repeated for each candidate, the others are not."""


@dataclass
class Server:
    process: subprocess.Popen
    url: str = ""
    lines: list[str] = field(default_factory=list)
    """What it has told so far."""

    @property
    def text(self):
        return "\n".join(self.lines)

    def read(self):
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def health(self):
        return httpx.get(f"{self.url}/healthz", timeout=20).json()

    def metrics(self):
        """By name with labels: the value."""
        text = httpx.get(f"{self.url}/metrics", timeout=20).text
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}


@contextmanager
def served(place, **serve):
    """serve: keys of [serve]. Ends the server with SIGTERM, which must end well."""
    options = settings(**{f"serve__{key}": value for key, value in {"poll_s": 0.05, **serve}.items()})
    command = [sys.executable, "-m", "home_dist.cli", "serve", str(place), "--port", "0", *options]
    process = popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=REPOSITORY)
    server = Server(process)
    try:
        for line in process.stdout:
            server.lines.append(line.rstrip("\n"))
            if found := re.match(r"serving v\d+ on (http://127\.0\.0\.1:\d+)$", line):
                server.url = found[1]
                break
        assert server.url, server.text
        reading = threading.Thread(target=server.read, daemon=True)
        reading.start()
        yield server
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, server.text
        reading.join(10)
    finally:
        process.kill()


def rows_of(trained, model):
    """Rows of the test split, with the columns that the model reads."""
    files = sorted((trained.parent / "data" / "test").iterdir())
    return pa.concat_tables([pq.read_table(path, columns=model.columns) for path in files]).combine_chunks()


def request_of(rows, user=0, count=5, columns=USER):
    """(the user's columns of row `user`, the other columns of the first `count` rows, all as one table of whole rows)"""
    whole = rows.slice(0, count)
    of_user = rows.slice(user, 1).select(list(columns))
    for name in columns:
        repeated = of_user[name].combine_chunks().take(pa.array(np.zeros(count, np.int64)))
        whole = whole.set_column(whole.column_names.index(name), name, repeated)
    return of_user, rows.slice(0, count).drop_columns(list(columns)), whole


def body(of_user, candidates):
    [user] = of_user.to_pylist() or [{}]
    return {"user": user, "candidates": candidates.to_pydict()}


def ask(server, content, **options):
    return httpx.post(f"{server.url}/predict", json=content, timeout=60, **options)


def same(predictions, expected):
    """Whether an answer's predictions are those of `predict`, to the bit."""
    assert list(predictions) == expected.column_names
    for name in expected.column_names:
        np.testing.assert_array_equal(np.array(predictions[name], np.float32), np.asarray(expected[name]))


def near(predictions, expected):
    """As `same`, for requests that were computed together: products round otherwise."""
    assert list(predictions) == expected.column_names
    for name in expected.column_names:
        np.testing.assert_allclose(np.array(predictions[name], np.float32), np.asarray(expected[name]), rtol=0, atol=1e-6)
