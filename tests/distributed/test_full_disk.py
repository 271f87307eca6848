"""A disk that fills up while a checkpoint is written: one message, nothing half-written, and the run goes on with room."""

import os
import subprocess

import pytest

from tests.factory import make_config, make_data
from tests.ranks import run, settings

pytestmark = pytest.mark.distributed


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, which `mount -o remount,size=..` can shrink and grow."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], capture_output=True).returncode
    )
    if not mounted:
        pytest.skip("only root on a machine that allows mounts can make a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_loses_nothing(small_disk, tmp_path):
    data = make_data(tmp_path / "data", rows=600, files=2)
    config = make_config(small_disk, data)
    options = settings(checkpoint__every_steps=2, insight__every_steps=0)
    first = run(2, "train", config, *options, *settings(train__max_steps=2))
    assert first.codes == [0, 0], first.text
    before = {p: p.stat().st_mtime_ns for p in (small_disk / "run" / "checkpoints").rglob("*")}
    filler = small_disk / "filler"
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    filler.write_bytes(bytes(free - 100_000))

    ended = run(2, "train", config, *options)
    assert ended.codes == [4, 4], ended.text
    messages = [line for line in ended.text.splitlines() if line.startswith("error: ")]
    assert len(messages) == 1, ended.text
    assert "No space left on device" in messages[0]
    assert "Checkpoints written before are intact; make room" in messages[0]
    assert "Traceback" not in ended.text
    assert before == {p: p.stat().st_mtime_ns for p in (small_disk / "run" / "checkpoints").rglob("*")}

    filler.unlink()
    again = run(2, "train", config, *options)
    assert again.codes == [0, 0], again.text
    assert "resuming from" in again.text
    assert "step-00000002: step 2 of" in again.text
