"""A folder in an object store that appears whole: a store renames nothing, so that a mark says that it is not whole yet.

Until the mark is gone, which is the last step, the folder counts as unfinished, and the next command empties it. A file without
which nobody reads the folder, such as a schema, is written last.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from home_dist.errors import DataError
from home_dist.files import remote
from home_dist.files.stores import join, without_secrets
from home_dist.files.whole import MARK, is_mark


@dataclass
class RemoteFolder:
    staging: Path
    """A folder of this machine, whose files are put into the remote folder."""
    copies: list[tuple[str, str]] = field(default_factory=list)
    """Places of files of a store, and the names that they get."""


def refuse_existing_remote(out: str) -> None:
    """Raises DataError when `out` holds something but unfinished work of ours, and StoreError."""
    if remote.names_below(out) and not _is_ours(out):
        raise DataError(f"{without_secrets(out)} is there already. Remove it, or choose another folder to write to.")


@contextmanager
def whole_remote_folder(out: str, last: str) -> Iterator[RemoteFolder]:
    """last: name of the file to write last. On an error nothing is left. Raises DataError when `out` holds something,
    StoreError."""
    refuse_existing_remote(out)
    with tempfile.TemporaryDirectory(prefix="home-dist-") as staging:
        folder = RemoteFolder(Path(staging))
        yield folder
        remote.remove_below(out)
        try:
            remote.put_bytes(json.dumps({"made_by": "home_dist", "remove": "unfinished"}).encode(), join(out, MARK))
            for place, name in folder.copies:
                remote.copy(place, join(out, name))
            names = [str(p.relative_to(staging)) for p in sorted(Path(staging).rglob("*")) if p.is_file()]
            for name in sorted(names, key=lambda n: n == last):
                remote.put(Path(staging, name), join(out, name))
            remote.remove_file(join(out, MARK))
        except BaseException:
            with suppress(DataError):
                remote.remove_below(out)
            raise


def _is_ours(out: str) -> bool:
    return is_mark(remote.read_bytes(join(out, MARK)) or b"{}")
