"""Commands that write to one folder of a store: one of them ends, and nobody's files are lost or mixed."""

import pytest

from home_dist.errors import DataError
from home_dist.files import remote, remote_claim
from home_dist.files.remote_claim import Claim, Taken
from home_dist.files.remote_folder import refuse_existing_remote, whole_remote_folder
from home_dist.files.whole import MARK
from tests.s3 import credentials, in_new_bucket, machine, server

__all__ = ["credentials", "server"]
NAMES = [f"train/part-{n}" for n in range(3)]


@pytest.fixture
def out(server, credentials, tmp_path, request):
    return in_new_bucket(server, tmp_path, request, "out")


def write(out, text, names=NAMES):
    with whole_remote_folder(out, "schema") as folder:
        for name in [*names, "schema"]:
            (folder.staging / name).parent.mkdir(exist_ok=True)
            (folder.staging / name).write_text(text)


def content(out):
    return {n: remote.read_bytes(remote.join(out, n)).decode() for n in remote.names_below(out)}


def meanwhile(monkeypatch, name, action):
    """Performs the action once, just before the file of this name is written."""
    put, left = remote.put, [action]

    def putting(path, place):
        if f"/out/{name}" in place and left:
            left.pop()()
        return put(path, place)

    monkeypatch.setattr(remote, "put", putting)


@pytest.mark.parametrize("number", [2, 4, 6])
def test_a_command_that_was_overtaken_ends_and_leaves_the_output_of_the_other(out, tmp_path, monkeypatch, number):
    """number: of the first command's checks, before which the second writes the whole folder."""
    check, checks = Claim.check, []

    def checking(self):
        checks.append(self.owner)
        if len(checks) == number:
            with machine(tmp_path / "b"):
                write(out, "second", NAMES[:1])
        check(self)

    monkeypatch.setattr(remote_claim, "FRESH_SECONDS", -1e9)  # as if the first had slept
    monkeypatch.setattr(Claim, "check", checking)
    with machine(tmp_path / "a"), pytest.raises(Taken, match=r"/out\S*: another command has taken or removed this folder"):
        write(out, "first")
    assert content(out) == {"train/part-0": "second", "schema": "second"}


def test_two_commands_at_once_are_refused(out, tmp_path, monkeypatch):
    told = []

    def try_to_write():
        for folder in ("a", "b"):
            with machine(tmp_path / folder), pytest.raises(DataError) as raised:
                write(out, "second")
            told.append(str(raised.value))

    meanwhile(monkeypatch, "train/part-1", try_to_write)
    with machine(tmp_path / "a"):
        write(out, "first")
    assert content(out) == dict.fromkeys([*NAMES, "schema"], "first")
    assert "another command of this machine is at work there. Wait for it" in told[0]
    assert "a command of another machine" in told[1]
    assert "start this one again in" in told[1]


def test_what_a_killed_command_left_is_overwritten(out, tmp_path, monkeypatch):
    with machine(tmp_path / "a"):
        Claim(out, "output").write()
        remote.put_bytes(b"half", remote.join(out, "train/part-9"))
        refuse_existing_remote(out)  # a command of this machine may go on at once
        with machine(tmp_path / "b"):
            with pytest.raises(DataError, match="a command of another machine"):
                refuse_existing_remote(out)
            monkeypatch.setattr(remote_claim, "FRESH_SECONDS", -1e9)
            refuse_existing_remote(out)
        write(out, "second")
    assert content(out) == dict.fromkeys([*NAMES, "schema"], "second")


def test_a_command_killed_while_it_removes_leaves_the_mark(out, monkeypatch):
    Claim(out, "output").write()
    remote.put_bytes(b"half", remote.join(out, "schema"))
    removed = []

    def killed(place):
        removed.append(place)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(remote, "remove_below", killed)
        with pytest.raises(KeyboardInterrupt):
            remote_claim.remove_claimed(out)
    assert removed == [out]
    assert list(content(out)) == [MARK]
    refuse_existing_remote(out)
    remote_claim.remove_claimed(out)
    assert content(out) == {}


def test_a_file_that_another_command_put_between_is_told(out, monkeypatch):
    meanwhile(monkeypatch, "schema", lambda: remote.put_bytes(b"a late one", remote.join(out, "train/part-0")))
    with pytest.raises(DataError, match="another command wrote or removed train/part-0 meanwhile"):
        write(out, "first")
    assert content(out) == {}


def test_folders_of_others_stay(out):
    remote.put_bytes(b"{}", remote.join(out, MARK))
    with pytest.raises(DataError, match=r"is there already\. Remove it"):
        write(out, "first")
    assert content(out) == {MARK: "{}"}
    Claim(out, "work").write()
    with pytest.raises(DataError, match=r"is there already\. Remove it"):
        write(out, "first")
