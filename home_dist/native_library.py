"""C++ sources, compiled for this processor when they are first needed: once per machine, in some seconds.

A library is kept in the user's cache under a name made of its sources, the compiler and the processor. It is written to a
name of its own and then renamed, so that ranks that build at the same time do not disturb each other.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from home_dist.files.private import is_private

_TIMEOUT = 120.0  # seconds; it takes 5


class CannotBuild(Exception):
    """Why a library could not be compiled or loaded."""


@functools.cache
def native_library(source: Path, flags: tuple[str, ...]) -> ctypes.CDLL:
    """The library made of `source`, which may include other files of its folder. Raises CannotBuild."""
    compiler = os.environ.get("CXX") or next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), None)
    if compiler is None:
        raise CannotBuild("no C++ compiler")
    try:
        asked = subprocess.run([*compiler.split(), "--version"], capture_output=True, text=True, timeout=20, check=True)
        texts = [path.read_text() for path in sorted(source.parent.iterdir()) if path.suffix in (".hpp", ".cpp")]
        key = "\n".join([*texts, source.name, " ".join(flags), compiler, asked.stdout, _processor()])
        library = _folder() / f"{source.stem}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
        if not library.exists():
            _compile(compiler, source, flags, library)
        return ctypes.CDLL(str(library))
    except subprocess.CalledProcessError as error:
        raise CannotBuild(f"{compiler} failed: {(error.stderr or error.stdout or '').strip()[:200]}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotBuild(f"{compiler} failed: {error}") from None


def _compile(compiler: str, source: Path, flags: Sequence[str], library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / library.name
        # Not every architecture's compiler knows -march=native.
        for target in (["-march=native"], ["-mcpu=native"], []):
            command = [*compiler.split(), *flags, *target, str(source), "-o", str(made)]
            ended = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT)
            if ended.returncode == 0:
                break
        ended.check_returncode()
        os.replace(made, library)


def _folder() -> Path:
    """Where libraries are kept: the user's cache, or a folder of this user's for temporary files."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    for folder in (Path(cache) / "home_dist", Path(tempfile.gettempdir()) / f"home_dist-{os.getuid()}"):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            continue
        # A folder that someone else owns or may write could hold someone else's code.
        if is_private(folder.resolve()) and os.access(folder, os.W_OK):
            return folder
    raise CannotBuild("no folder to keep the compiled library in")


def _processor() -> str:
    """What -march=native depends on: a home folder may serve machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
