"""manifest.json of a checkpoint: size and SHA-256 of every other file. It is written last and makes the checkpoint complete.

Files are read only if they agree with the manifest. A file that the manifest does not name makes the checkpoint damaged.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from home_dist.errors import CheckpointError
from home_dist.files.hashes import file_sha256
from home_dist.files.whole import write_whole

MANIFEST = "manifest.json"

Files = dict[str, dict[str, Any]]
"""By file name: "bytes" and "sha256"."""


def entry(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def write_manifest(folder: Path, files: Files) -> None:
    write_whole(folder / MANIFEST, json.dumps({"files": files}, indent=1, sort_keys=True))


def read_manifest(checkpoint: Path) -> Files:
    """Raises CheckpointError for a missing or malformed manifest."""
    try:
        files = json.loads((checkpoint / MANIFEST).read_text())["files"]
        if not isinstance(files, dict):
            raise ValueError("no list of files")
        for name, expected in files.items():
            if "/" in name or name in ("", ".", ".."):
                raise ValueError(f"{name!r} is no name of a file")
            int(expected["bytes"]), str(expected["sha256"])
    except FileNotFoundError:
        raise CheckpointError(f"{checkpoint}: no {MANIFEST}, so this is no complete checkpoint. Use another one.") from None
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise damaged(checkpoint, MANIFEST, repr(error)) from None
    return files


def verify(checkpoint: Path, names: Iterable[str] | None = None) -> None:
    """Checks files, by default all, against the manifest. Raises CheckpointError, which names the file."""
    files = read_manifest(checkpoint)
    # NFS keeps removed files as .nfs* while a process has them open.
    present = {p.name for p in checkpoint.glob("*") if not p.name.startswith(".nfs")}
    foreign = sorted(present - set(files) - {MANIFEST})
    if foreign:
        raise damaged(checkpoint, foreign[0], "a foreign file, which the manifest does not name")
    for name in sorted(files) if names is None else names:
        check(checkpoint, name, files)


def check(checkpoint: Path, name: str, files: Files) -> None:
    """Checks one file against `files`. Raises CheckpointError."""
    path = checkpoint / name
    if name not in files:
        raise damaged(checkpoint, name, "the manifest does not name it")
    try:
        if not path.is_file():
            raise damaged(checkpoint, name, "the file is missing")
        if (size := path.stat().st_size) != files[name]["bytes"]:
            raise damaged(checkpoint, name, f"{size} bytes instead of {files[name]['bytes']}")
        if file_sha256(path) != files[name]["sha256"]:
            raise damaged(checkpoint, name, "its content has changed since it was written")
    except OSError as error:
        raise damaged(checkpoint, name, f"it cannot be read: {error}") from None


def first_line(error: BaseException) -> str:
    """First line of the error; of a CheckpointException, which holds one error per rank, the first rank's."""
    failures = getattr(error, "failures", None)
    if failures:
        error = next(iter(failures.values()))[0]
    return next((line for line in str(error).splitlines() if line.strip()), repr(error))


def cannot_write(path: Path, error: BaseException) -> CheckpointError:
    # torch's writer reports a full disk as "unexpected pos": ask the disk instead.
    existing = next((p for p in (path, *path.parents) if p.exists()), Path("/"))
    full = shutil.disk_usage(existing).free < 2**20
    reason = "No space left on device" if full else first_line(error)
    return CheckpointError(
        f"{path}: the checkpoint could not be written: {reason}. "
        "Checkpoints written before are intact; make room or correct run.dir, then start the same command again."
    )


class Damaged(CheckpointError):
    """A checkpoint's files do not agree with its manifest."""


def damaged(checkpoint: Path, name: str, reason: str) -> Damaged:
    return Damaged(f"{checkpoint / name}: damaged checkpoint: {reason}.")
