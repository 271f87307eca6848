"""What a terminal gets, and what a log: tried with a pseudoterminal."""

import os
import pty
import re
import struct
import subprocess
import sys
import termios
from fcntl import ioctl

import pytest

from tests.ranks import REPOSITORY

ERASED = "\r\x1b[2K"
PROGRAM = """
from rich.table import Table
from home_dist.screen import Screen
screen = Screen(True)
table = Table(title="a table")
table.add_column("one")
table.add_row("[x] 1")
screen.say("begin [x]")
screen.progress(["step 1/2", "loss 2.0", "waiting for data 0.0%", "ETA 0:00:09"])
screen.say("a finding")
screen.progress(["step 2/2", "loss 1.0", "waiting for data 0.0%", "ETA 0:00:00"])
screen.keep_progress()
screen.table(table)
"""


def in_terminal(command, width=100, **variables):
    """What a program writes to a terminal of `width` columns."""
    master, slave = pty.openpty()
    ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, width, 0, 0))
    given = {**{k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS")}, "TERM": "xterm-256color", **variables}
    process = subprocess.Popen(command, stdout=slave, stderr=slave, cwd=REPOSITORY, env=given)
    os.close(slave)
    written = b""
    while True:
        try:
            piece = os.read(master, 4096)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        written += piece
    os.close(master)
    assert process.wait(60) == 0, written.decode()
    return written.decode().replace("\r\n", "\n")


def seen(written):
    """Lines on the screen in the end: a carriage return with an erased line begins the line anew."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", written)
    return [line.rpartition(ERASED)[2].rstrip() for line in plain.split("\n")]


def test_progress_is_one_line_of_a_terminal():
    written = in_terminal([sys.executable, "-c", PROGRAM])
    lines = seen(written)
    assert lines[:3] == ["begin [x]", "a finding", "step 2/2 | loss 1.0 | waiting for data 0.0% | ETA 0:00:00"]
    assert "step 1/2" in written  # it was there
    assert not [line for line in lines if "step 1/2" in line]


def test_a_narrow_terminal_goes_without_what_is_less_important():
    lines = seen(in_terminal([sys.executable, "-c", PROGRAM], width=40))
    assert "step 2/2 | loss 1.0 | ETA 0:00:00" in lines


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_escape_codes_where_none_are_wanted(variables):
    written = in_terminal([sys.executable, "-c", PROGRAM], **variables)
    assert "\x1b" not in written
    assert "\r" not in written
    assert [line for line in written.splitlines() if line.startswith("step")] == [
        f"step {n}/2 | loss {loss} | waiting for data 0.0% | ETA 0:00:0{left}"
        for n, loss, left in ((1, "2.0", 9), (2, "1.0", 0))
    ]


def test_bars_where_escape_codes_are_wanted():
    program = """
from home_dist.prepare.progress import Progress
with Progress().step("reading", 10) as advance:
    advance(10)
"""
    assert "━" in in_terminal([sys.executable, "-c", program])
    for variables in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        written = in_terminal([sys.executable, "-c", program], **variables)
        assert re.fullmatch(r"reading: 10 rows in [\d.]+ s \| [\d,]+ rows/s\n", written)


def test_colours_where_they_are():
    assert "\x1b[" in in_terminal([sys.executable, "-m", "home_dist.cli", "--help"])


def test_help_without_escape_codes():
    assert "\x1b" not in in_terminal([sys.executable, "-m", "home_dist.cli", "--help"], NO_COLOR="1")


def test_a_log_gets_lines():
    output = subprocess.run([sys.executable, "-c", PROGRAM], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert "\x1b" not in output
    assert output.splitlines()[:3] == [
        "begin [x]",
        "step 1/2 | loss 2.0 | waiting for data 0.0% | ETA 0:00:09",
        "a finding",
    ]
