"""Commands that are given one work folder of a store: one of them ends, and none reads what another one wrote."""

import errno
import socket
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from home_dist.errors import DataError
from home_dist.files import remote, remote_claim
from home_dist.files.places import join
from home_dist.files.remote_claim import Taken
from home_dist.prepare.engine import LocalEngine, RemoteWork, Task
from home_dist.prepare.engine.mirror import here
from tests.prepare.test_engine import QUIET
from tests.s3 import credentials, in_new_bucket, machine, server

__all__ = ["credentials", "server"]


@pytest.fixture
def place(server, credentials, tmp_path, request):
    return in_new_bucket(server, tmp_path, request, "work")


def work_of(place, name):
    return RemoteWork(place, {"description": name}, LocalEngine(1), QUIET)


def put_text(text: str, folder: Path) -> None:
    (folder / "text").write_text(text)


meanwhile = []


def late(folder: Path) -> None:
    meanwhile.pop()()
    put_text("of the first", folder)


def run(work, stage, *texts):
    return [f / "text" for f in work.run(stage, stage, [Task(partial(put_text, text), 1) for text in texts])]


def contents(place):
    return {n: remote.read_bytes(join(place, n)) for n in remote.names_below(place)}


def test_a_second_command_is_refused(place, tmp_path):
    with closing(work_of(place, "first")) as work:
        run(work, "scan", "a")
        before = contents(place)
        with pytest.raises(DataError, match="another command of this machine is at work there"):
            work_of(f"{place}&scheme=http", "second")
        with (
            machine(tmp_path / "b"),
            pytest.raises(DataError, match=r"a command of another machine .* start this one again in"),
        ):
            work_of(place, "second")
        assert contents(place) == before
        assert [here(p).read_text() for p in run(work, "encode", "b", "c")] == ["b", "c"]
    with closing(work_of(place, "first")) as work:  # goes on at once, and another description begins anew
        assert work.goes_on
    with closing(work_of(place, "second")) as work:
        assert not work.goes_on
        assert not [n for n in contents(place) if "/" in n]
        work.remove()
    assert contents(place) == {}


@pytest.mark.parametrize("name", ["first", "second"])
def test_a_command_whose_folder_was_taken_ends_and_leaves_all_to_the_other(place, tmp_path, monkeypatch, name):
    """name: description of the command that takes it, the same or another one."""
    monkeypatch.setattr(remote_claim, "FRESH_SECONDS", -1e9)  # as if the first had slept
    with machine(tmp_path / "a"), closing(work_of(place, "first")) as work:
        run(work, "scan", "of the first")
        with machine(tmp_path / "b"), closing(work_of(place, name)) as other:
            assert other.goes_on == (name == "first")
            taken = r"/work\S*: another command has taken or removed this folder"
            [path] = run(other, "scan", f"of the {name}")
            before = contents(place)
            with pytest.raises(Taken, match=taken):
                run(work, "scan", "of the first", "more")
            with pytest.raises(Taken, match=taken):
                work.choose("partitions", 3)
            with pytest.raises(Taken, match=taken):
                work.drop("scan")
            work.remove()
            assert contents(place) == before
            assert here(path).read_text() == f"of the {name}"


def test_a_task_that_ends_after_its_folder_was_taken_writes_nothing(place, tmp_path, monkeypatch):
    monkeypatch.setattr(remote_claim, "FRESH_SECONDS", -1e9)
    with machine(tmp_path / "a"), closing(work_of(place, "first")) as work:
        texts = {}

        def overtake():
            with machine(tmp_path / "b"), closing(work_of(place, "second")) as other:
                run(other, "scan", "of the second")
                texts.update(contents(place))

        meanwhile.append(overtake)
        with pytest.raises(Taken):
            work.run("scan", "scan", [Task(late, 1)])
        assert contents(place) == texts


def fill_the_disk(folder: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_of_the_machine_that_ran_the_task_is_told(place):
    with closing(work_of(place, "first")) as work, pytest.raises(DataError, match=rf"{socket.gethostname()}: .* set TMPDIR"):
        work.run("scan", "scan", [Task(fill_the_disk, 1)])


def test_folders_of_others_stay(place):
    files = {"plan.json": b'{"fingerprint": {}, "chosen": {}, "tasks": ["my own"]}', "data/model.bin": b"x"}
    for name, content in files.items():
        remote.put_bytes(content, join(place, name))
    with pytest.raises(
        DataError, match=r"is in the way: it holds files, but no .home_dist of a work folder of ours. Move it away, or give"
    ):
        work_of(place, "first")
    assert contents(place) == files


def test_a_plan_that_names_another_folder_is_not_followed(place, tmp_path):
    (tmp_path / "mine").mkdir()
    with machine(tmp_path / "a"):
        work_of(place, "first").close()
        plan = f'{{"fingerprint": {{"description": "first"}}, "chosen": {{}}, "run": "/../../..{tmp_path}/mine"}}'
        remote.put_bytes(plan.encode(), join(place, "plan.json"))
        with closing(work_of(place, "first")) as work:
            assert not work.goes_on
    assert (tmp_path / "mine").exists()
