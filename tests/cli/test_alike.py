"""Errors before ranks can talk: told once on a host, whichever ranks come to them, and without waiting."""

import subprocess
import sys
import time

from tests.ranks import REPOSITORY, environment, free_port

TWO = "from home_dist.cli.alike import alike_on_all_ranks\nfrom home_dist.errors import DataError\nimport os, sys, time\n"
FAIL = "def fail():\n    raise DataError(MESSAGE)\nalike_on_all_ranks(fail)\n"


def start(program, ranks):
    port = free_port()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": REPOSITORY}
    command = [sys.executable, "-c", TWO + program]
    return [subprocess.Popen(command, env=environment(r, ranks, port), **pipes) for r in range(ranks)]


def ended(processes):
    outputs = [p.communicate(timeout=60)[0] for p in processes]
    return [p.returncode for p in processes], outputs


def test_all_ranks_of_a_host_fail_alike_and_one_tells(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    began = time.monotonic()
    codes, outputs = ended(start(f"MESSAGE = 'no column x'\n{FAIL}", 4))
    assert codes == [3] * 4
    assert sum(text.count("error: no column x") for text in outputs) == 1
    assert time.monotonic() - began < 15


def test_nothing_is_left_behind_and_the_next_start_tells_again(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for _ in range(2):
        _, outputs = ended(start(f"MESSAGE = 'no column x'\n{FAIL}", 2))
        assert "".join(outputs).count("no column x") == 1
        assert list(tmp_path.iterdir()) == []


def test_a_rank_that_fails_alone_tells(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    program = f"MESSAGE = 'no such file'\nif os.environ['RANK'] == '0':\n    sys.exit()\n{FAIL}"
    codes, outputs = ended(start(program, 2))
    assert (codes, outputs) == ([0, 3], ["", "error: no such file\n"])


def test_each_message_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    _, outputs = ended(start(f"MESSAGE = 'rank ' + os.environ['RANK']\n{FAIL}", 2))
    assert sorted(outputs) == ["error: rank 0\n", "error: rank 1\n"]


def test_where_no_file_can_be_written_each_rank_tells(monkeypatch):
    program = f"import tempfile\ntempfile.tempdir = '/proc/none'\nMESSAGE = 'no column x'\n{FAIL}"
    codes, outputs = ended(start(program, 2))
    assert (codes, outputs) == ([3, 3], ["error: no column x\n"] * 2)


def test_what_an_earlier_start_left_is_not_taken_for_told(tmp_path, monkeypatch):
    """Such as one whose other rank was ended by torchrun before it came: the file stays, and its time is before this start."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    port = free_port()
    for _ in range(2):
        command = [sys.executable, "-c", f"{TWO}MESSAGE = 'no column x'\n{FAIL}"]
        process = subprocess.run(command, env=environment(0, 2, port), cwd=REPOSITORY, capture_output=True, text=True)
        assert (process.returncode, process.stderr) == (3, "error: no column x\n")
        [left] = tmp_path.iterdir()
    left.write_text("99999999999 'error: no column x'\ncut off\n\n")  # of a machine that has been up for longer
    process = subprocess.run(command, env=environment(0, 2, port), cwd=REPOSITORY, capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (3, "error: no column x\n")


def test_one_process_needs_no_file(monkeypatch):
    monkeypatch.setenv("TMPDIR", "/proc/none")
    program = f"import tempfile\ntempfile.gettempdir = None\nMESSAGE = 'no column x'\n{FAIL}"
    codes, outputs = ended(start(program, 1))
    assert (codes, outputs) == ([3], ["error: no column x\n"])
