"""A folder in an object store that appears whole: a store renames nothing, so that a mark says that it is not whole yet.

Until the mark is gone, which is the last step, the folder counts as unfinished, and the next command empties it. A file without
which nobody reads the folder, such as a schema, is written last. Two commands may write to one folder: only the one whose mark
is there (remote_claim.py) goes on.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from home_dist.errors import DataError
from home_dist.files import remote
from home_dist.files.places import join, without_secrets
from home_dist.files.remote_claim import Claim, claimed, refuse_claimed, remove_claimed
from home_dist.files.whole import MARK

_USE = "output"


@dataclass
class RemoteFolder:
    staging: Path
    """A folder of this machine, whose files are put into the remote folder."""
    copies: list[tuple[str, str]] = field(default_factory=list)
    """Places of files of a store, and the names that they get."""


class AlreadyThere(DataError):
    """A folder that holds something, which is no unfinished work of ours."""


def refuse_existing_remote(out: str) -> None:
    """Raises AlreadyThere when `out` holds something but unfinished work of ours, DataError when a command of another machine
    writes there, StoreError."""
    refuse_claimed(out, _USE, _is_there(out))


@contextmanager
def whole_remote_folder(out: str, last: str) -> Iterator[RemoteFolder]:
    """last: name of the file to write last. On an error nothing of ours is left. Raises DataError when `out` holds something or
    another command writes there, Taken when another command begins to, StoreError."""
    refuse_existing_remote(out)
    with tempfile.TemporaryDirectory(prefix="home-dist-") as staging:
        folder = RemoteFolder(Path(staging))
        yield folder
        with claimed(out, _USE, _is_there(out)) as claim:
            try:
                _write(folder, claim, last)
            except BaseException:
                with suppress(DataError):
                    if claim.is_own():
                        remove_claimed(out)
                raise


def _write(folder: RemoteFolder, claim: Claim, last: str) -> None:
    out = claim.place
    written: dict[str, int | None] = {}
    remote.empty(out, keep=MARK)
    for place, name in folder.copies:
        claim.check()
        try:
            written[name] = remote.copy(place, join(out, name))
        except FileNotFoundError:
            raise remote.gone(place) from None
    paths = {str(p.relative_to(folder.staging)): p for p in sorted(folder.staging.rglob("*")) if p.is_file()}
    for name in sorted(paths, key=lambda n: n == last):
        claim.check()
        written[name] = remote.put(paths[name], join(out, name))
    claim.check()
    changed = _changed(out, written | {MARK: None})
    if changed:
        raise DataError(
            f"{without_secrets(out)}: another command wrote or removed {changed[0]} meanwhile. Give each command a folder of "
            "its own to write to; the same command then goes on."
        )
    try:
        remote.remove_file(join(out, MARK))
    except FileNotFoundError:  # a request that was tried again after it had succeeded, or another command
        if _changed(out, written):
            claim.check()


def _changed(out: str, written: Mapping[str, int | None]) -> list[str]:
    """Names of files that are not as written. written: bytes by name; None stands for any number."""
    found = remote.sizes_below(out)
    both = {n: found[n] for n, size in written.items() if n in found and size in (None, found[n])}
    return sorted((found.keys() | written.keys()) - both.keys())


def _is_there(out: str) -> AlreadyThere:
    return AlreadyThere(f"{without_secrets(out)} is there already. Remove it, or choose another folder to write to.")
