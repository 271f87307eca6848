"""A command's claim to a folder in a store. A store has no locks: a mark in the folder names the command that owns it.

On one machine a lock keeps a second command out, so that a mark of this machine without its lock was left by a killed command.
A mark of another machine counts as left when its owner has not written it for FRESH_SECONDS. Two commands may still claim one
folder at the same moment, or one may sleep for longer. The mark names one of them: a command reads it before it removes, writes
or trusts anything, and ends when the mark is not its own.
"""

import hashlib
import json
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import parse_qs

from home_dist.errors import DataError
from home_dist.files import remote
from home_dist.files.lock import locked
from home_dist.files.places import join, options_of, path_of, without_secrets
from home_dist.files.private import private_folder
from home_dist.files.whole import MARK, is_mark, write_whole

FRESH_SECONDS = 300.0
_REFRESH_SECONDS = 60.0


class Taken(DataError):
    """Another command has taken the folder. Nothing in it may be removed."""


class Claim:
    """Of one folder, by one command. use: what the folder is for; the mark of another use is foreign."""

    def __init__(self, place: str, use: str):
        self.place, self.use, self.owner = place, use, secrets.token_hex(8)
        self._written = 0.0

    def write(self) -> None:
        """Raises StoreError."""
        mark = {
            "made_by": "home_dist",
            "use": self.use,
            "owner": self.owner,
            "machine": _machine(),
            "host": socket.gethostname(),
            "remove": "This folder is unfinished work; it may be removed.",
        }
        remote.put_bytes(json.dumps(mark, indent=1).encode(), join(self.place, MARK))
        self._written = time.monotonic()

    def is_own(self) -> bool:
        """Raises StoreError."""
        return owner_of(self.place) == self.owner

    def check(self) -> None:
        """Raises Taken, StoreError."""
        refuse_taken(self.place, self.owner)
        if time.monotonic() - self._written > _REFRESH_SECONDS:
            self.write()

    @contextmanager
    def refreshed(self) -> Iterator[None]:
        """Within it the mark stays fresh, also while nobody calls `check`."""
        ended = threading.Event()

        def refresh() -> None:
            while not ended.wait(_REFRESH_SECONDS):
                with suppress(DataError, OSError):  # the next check tells it
                    self.check()

        thread = threading.Thread(target=refresh, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


@contextmanager
def claimed(place: str, use: str, foreign: DataError) -> Iterator[Claim]:
    """Claims a folder, which is empty or was left by a killed command. The mark stays behind. foreign: error to raise when the
    folder holds files but no mark of ours for this use. Raises DataError when another command is at work there, StoreError."""
    busy = DataError(
        f"{without_secrets(place)}: another command of this machine is at work there. Wait for it, or choose another folder."
    )
    key = hashlib.sha256(json.dumps([path_of(place), parse_qs(options_of(place)).get("endpoint_override")]).encode())
    lock = private_folder() / f"place-{key.hexdigest()[:16]}.lock"
    with locked(lock, busy):
        try:
            refuse_claimed(place, use, foreign)
            claim = Claim(place, use)
            claim.write()
            claim.check()
            yield claim
        finally:
            lock.unlink(missing_ok=True)


def refuse_claimed(place: str, use: str, foreign: DataError) -> None:
    """Raises `foreign` when the folder holds files but no mark of ours for this use, DataError when a command of another
    machine is at work there, StoreError."""
    content = remote.read_bytes(join(place, MARK))
    if content is None:
        if remote.sizes_below(place):
            raise foreign
        return
    mark = json.loads(content) if is_mark(content) else {}
    if mark.get("use") != use:
        raise foreign
    modified = remote.modified(join(place, MARK))
    left = 0.0 if modified is None else FRESH_SECONDS - (time.time() - modified)
    if mark.get("machine") != _machine() and left > 0:
        host = mark.get("host", "unknown")
        raise DataError(
            f"{without_secrets(place)}: a command of another machine ({host}) is at work there. Wait for it, or choose another "
            f"folder. If it was killed, start this one again in {left + 1:.0f} seconds."
        )


def refuse_taken(place: str, owner: str) -> None:
    """Raises Taken when the folder's mark is not the owner's, StoreError."""
    if owner_of(place) != owner:
        raise Taken(
            f"{without_secrets(place)}: another command has taken or removed this folder. This command ends, and leaves what "
            "is there. Give each command an output and a work folder of its own."
        )


def remove_claimed(place: str) -> None:
    """Removes a folder of ours, its mark last, so that what a kill leaves behind can be told to be ours. Raises StoreError."""
    remote.empty(place, keep=MARK)
    remote.remove_below(place)


def owner_of(place: str) -> str | None:
    """Raises StoreError."""
    content = remote.read_bytes(join(place, MARK))
    return json.loads(content).get("owner") if content is not None and is_mark(content) else None


def _machine() -> str:
    """A random name, which all have in common who share the folder of locks."""
    path = private_folder() / "machine"
    with locked(path.with_suffix(".lock")):
        if not path.exists():
            write_whole(path, secrets.token_hex(8))
        return path.read_text()
