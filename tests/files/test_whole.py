"""Files and folders that are written whole or not at all, and what is not ours and so stays."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from home_dist.errors import ConfigError, DataError
from home_dist.files.whole import MARK, clear_folder, is_ours, mark_folder, whole_file, whole_folder, write_whole
from home_dist.prepare.frozen import write_frozen
from tests.ranks import REPOSITORY


def test_a_file_stays_what_it_was_until_all_of_it_is_written(tmp_path):
    path = tmp_path / "figures.json"
    write_whole(path, "before")

    def half() -> None:
        with whole_file(path) as file:
            file.write(b"hal")
            assert path.read_text() == "before"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["figures.json"]
    write_whole(path, "after")
    assert path.read_text() == "after"


def test_a_killed_process_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "figures.json"
    write_whole(path, "before")
    script = (
        "import os, pathlib\nfrom home_dist.files.whole import whole_file\n"
        f"with whole_file(pathlib.Path({str(path)!r})) as file:\n    file.write(b'x' * 100_000); file.flush(); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=False)
    assert path.read_text() == "before"
    hidden = [name for name in os.listdir(tmp_path) if name != "figures.json"]
    assert all(name.startswith(".") for name in hidden)


def test_a_file_keeps_its_mode_and_a_link_its_target(tmp_path):
    (tmp_path / "real").write_text("1")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to("real")
    write_whole(tmp_path / "link", "2")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "2"
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o640


def test_a_pipe_is_written_to_as_it_is(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_whole(tmp_path / "pipe", "told")
    assert os.read(reading, 10) == b"told"
    os.close(reading)


def test_a_folder_appears_only_when_it_is_done(tmp_path):
    out = tmp_path / "out"

    def half() -> None:
        with whole_folder(out) as writing:
            (writing / "first").write_text("1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert os.listdir(tmp_path) == []
    out.mkdir()  # an empty folder may be there
    with whole_folder(out) as writing:
        (writing / "second").write_text("2")
    assert [p.name for p in out.iterdir()] == ["second"]
    with pytest.raises(ConfigError, match="is there already"), whole_folder(out, ConfigError):
        pass


def test_what_a_killed_run_left_is_removed_and_what_others_put_there_stays(tmp_path):
    writing = tmp_path / "out.writing"
    writing.mkdir()
    mark_folder(writing, tmp_path / "out")
    (writing / "half").write_text("1")
    with whole_folder(tmp_path / "out") as folder:
        assert [p.name for p in folder.iterdir()] == [MARK]
    (tmp_path / "thesis.writing").mkdir()
    (tmp_path / "thesis.writing" / "chapter-1.md").write_text("years of work")
    with pytest.raises(DataError, match=r"thesis.writing is in the way"), whole_folder(tmp_path / "thesis"):
        pass
    assert (tmp_path / "thesis.writing" / "chapter-1.md").read_text() == "years of work"
    (tmp_path / "file.writing").write_text("mine")
    with pytest.raises(DataError, match=r"file.writing is in the way"), whole_folder(tmp_path / "file"):
        pass


def _killed(body: str, call: int, tmp_path: Path) -> bool:
    """Runs `body`, which is killed at its n-th change of a name or a file's opening. Returns whether it was."""
    code = f"""
import os, signal, sys
from pathlib import Path
from home_dist.files.whole import clear_folder, whole_folder
out = Path({str(tmp_path / "out")!r})
calls = 0
def hook(event, arguments):
    global calls
    if event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"):
        calls += 1
        if calls == {call}:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
{body}
"""
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    "body",
    [
        "with whole_folder(out) as w: (w / 'a').write_text('1'); (w / 'b').mkdir()",
        "clear_folder(out.with_name('out.writing'))",
    ],
    ids=["writing", "removing"],
)
def test_a_folder_whose_process_was_killed_at_any_step_is_still_told_to_be_ours(tmp_path, body):
    for call in range(1, 60):
        left = tmp_path / "out.writing"
        if "clear" in body:
            (left / "b").mkdir(parents=True)
            (left / "a").write_text("1")
            mark_folder(left, tmp_path / "out")
        killed = _killed(body, call, tmp_path)
        clear_folder(left)
        assert not left.exists(), call
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        if not killed:
            assert call > 5
            return
    raise AssertionError("the hook has seen no end")


def test_a_second_command_does_not_take_the_folder_of_the_first(tmp_path):
    with whole_folder(tmp_path / "out") as first:
        (first / "a").write_text("1")
        with pytest.raises(DataError, match="another command is writing there"), whole_folder(tmp_path / "out"):
            pass
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a"]


def test_a_link_to_a_folder_of_ours_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    mark_folder(tmp_path / "elsewhere", tmp_path / "out")
    (tmp_path / "out.writing").symlink_to("elsewhere")
    with pytest.raises(DataError, match="is in the way"):
        clear_folder(tmp_path / "out.writing")
    assert is_ours(tmp_path / "elsewhere")


def test_a_frozen_table_is_written_over_the_rest_of_a_killed_run(tmp_path):
    vectors = pa.array(np.eye(3).tolist(), pa.list_(pa.float64()))
    pq.write_table(pa.table({"id": [7, 5, 6], "vector": vectors}), tmp_path / "items.parquet")
    (tmp_path / "out.writing").mkdir()
    mark_folder(tmp_path / "out.writing", tmp_path / "out")
    (tmp_path / "out.writing" / "keys.npy").write_bytes(b"half")
    write_frozen(tmp_path / "items.parquet", "id", "vector", tmp_path / "out")
    assert np.load(tmp_path / "out" / "keys.npy").tolist() == [5, 6, 7]
    assert not (tmp_path / "out.writing").exists()
