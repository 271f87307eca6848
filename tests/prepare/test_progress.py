"""What a long step says of itself."""

import io

import pytest
from rich.console import Console

from home_dist.prepare import progress
from home_dist.prepare.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_where_there_is_no_terminal(clock):
    said: list[str] = []
    with Progress(said.append).step("reading", 1000, done=200) as advance:
        for _ in range(4):
            clock[0] += 4.0
            advance(200)
    assert said == [
        "reading: 600 of 1,000 rows  60% | 50 rows/s | ETA 8 s",  # 400 rows in 8 s; what an earlier run did has no pace
        "reading: 1,000 rows in 16.0 s | 50 rows/s",
    ]


def test_a_bar_in_a_terminal(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda: Console(file=screen, force_terminal=True, width=100))
    said: list[str] = []
    with Progress(said.append, bars=True).step("reading", 10, unit="bytes") as advance:
        advance(10)
    assert "reading" in screen.getvalue()
    assert "bytes/s" in screen.getvalue()
    assert "ETA" in screen.getvalue()
    assert len(said) == 1


def test_a_plain_function_is_taken_too():
    said: list[str] = []
    Progress.of(said.append)("text")
    whole = Progress(said.append)
    assert Progress.of(whole) is whole
    assert said == ["text"]
