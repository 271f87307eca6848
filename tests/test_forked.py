"""Programs that a server forks are to a test what processes of subprocess are."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests import forked, ranks

pytestmark = pytest.mark.skipif(
    forked._request([sys.executable, "-c", ""], {}) is None, reason="programs are started anew on this machine"
)


def python(text: str, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return forked.run([sys.executable, "-c", text, *arguments], capture_output=True, text=True, timeout=60, **options)


def test_ranks_are_forked_by_servers_in_turn(tmp_path):
    assert forked._servers_are_there(), [forked._log(n).read_text() for n in range(forked.SERVERS)]
    processes = ranks.start(2, "--help")
    assert [type(p) for p in processes] == [forked.Forked] * 2
    parents = ["import os; print(os.getppid(), hash('a'))"] * 3
    started = [forked.popen([sys.executable, "-c", t], n, stdout=subprocess.PIPE, text=True) for n, t in enumerate(parents)]
    told = [p.communicate(timeout=60)[0].split() for p in started]
    assert told[0] == told[2]
    assert told[0][0] != told[1][0]
    assert told[0][1] != told[1][1]  # sets of texts have another order
    ended = ranks.finish(processes)
    assert ended.codes == [0, 0]
    assert "Usage" in ended.outputs[1]


def test_ranks_that_print_much_do_not_wait_for_each_other(tmp_path):
    """Each waits for the other one's file after it has printed more than a pipe holds."""
    text = """import sys, time, pathlib
mine, other = map(pathlib.Path, sys.argv[1:])
print("x" * 1_000_000)
mine.touch()
while not other.exists(): time.sleep(0.01)"""
    files = [str(tmp_path / name) for name in "ab"]
    pipes = {"stdout": subprocess.PIPE, "text": True}
    processes = [forked.popen([sys.executable, "-c", text, *order], n, **pipes) for n, order in enumerate((files, files[::-1]))]
    ended = ranks.finish(processes, timeout=20)
    assert [len(x) for x in ended.outputs] == [1_000_001] * 2


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("pass", 0),
        ("import sys; sys.exit(7)", 7),
        ("import os; os._exit(3)", 3),
        ("import sys; sys.exit('told')", 1),
        ("1 / 0", 1),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
    ],
)
def test_exit_codes(text, code):
    assert python(text).returncode == code


def test_what_a_program_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("ONE", "1")
    text = "import os, sys; print(os.getcwd(), sys.argv, os.environ['ONE'], sys.path[0]); print('no', file=sys.stderr)"
    ended = python(text, "a", "b c", cwd=tmp_path)
    assert ended.stdout == f"{tmp_path} ['-c', 'a', 'b c'] 1 \n"
    assert ended.stderr == "no\n"
    (tmp_path / "one.py").write_text("import sys; print(__name__, __file__, sys.path[0])")
    command = [sys.executable, str(tmp_path / "one.py")]
    assert forked.run(command, capture_output=True, text=True).stdout == f"__main__ {tmp_path}/one.py {tmp_path}\n"


def test_programs_know_nothing_of_each_other(tmp_path):
    text = "import os, random, signal, sys; print(random.random(), os.environ.get('LEFT'), os.listdir('/proc/self/fd'))"
    leave = "; os.environ['LEFT'] = '1'; random.seed(1); signal.signal(signal.SIGTERM, signal.SIG_IGN); os.chdir('/')"
    told = [python(text + leave).stdout.split(maxsplit=2) for _ in range(3)]
    assert len({number for number, *_ in told}) == 3
    assert {left for _, left, _ in told} == {"None"}
    assert {open_ for *_, open_ in told} == {"['0', '1', '2', '3']\n"}  # the last one is the folder that is listed
    waits = forked.popen([sys.executable, "-c", "print(1, flush=True); import time; time.sleep(60)"], stdout=subprocess.PIPE)
    assert waits.stdout.readline() == b"1\n"
    waits.terminate()
    assert waits.wait(20) == -signal.SIGTERM


def test_a_program_that_has_ended_keeps_its_number_until_it_is_asked(tmp_path):
    done = tmp_path / "done"
    process = forked.popen([sys.executable, "-c", f"open({str(done)!r}, 'w')"])
    deadline = time.monotonic() + 20
    while not done.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.5)
    os.kill(process.pid, 0)
    assert process.wait(20) == 0
    while os.path.exists(f"/proc/{process.pid}") and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


def test_time_runs_out():
    with pytest.raises(subprocess.TimeoutExpired):
        forked.run([sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.5)


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (["true"], {}),
        ([sys.executable, "-I", "-c", ""], {}),
        ([sys.executable, "-c", ""], {"env": {**os.environ, "OMP_NUM_THREADS": "7"}}),
        ([sys.executable, "-c", ""], {"env": {**os.environ, "PYTHONHASHSEED": "7"}}),
        ([sys.executable, "-c", ""], {"preexec_fn": os.getpid}),
    ],
)
def test_what_cannot_be_forked_is_started(command, options):
    process = forked.popen(command, **options)
    assert type(process) is subprocess.Popen
    assert process.wait(20) == 0


def test_a_rank_that_fails_ends_the_others_and_tells_why():
    began = time.monotonic()
    with pytest.raises(AssertionError, match=r"ValueError: of rank 1(.|\n)*") as failed:
        ranks.spawn(_fails, 2, "of rank")
    assert "exit codes" in str(failed.value)
    assert time.monotonic() - began < 30
    with pytest.raises(AssertionError, match="exit codes"):
        ranks.spawn(_waits, 2, timeout=1)


def _fails(rank: int, text: str) -> None:
    if rank == 1:
        raise ValueError(f"{text} {rank}")
    time.sleep(60)


def _waits(rank: int) -> None:
    time.sleep(60 * rank)
