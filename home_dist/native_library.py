"""Compiles C++ sources for this processor at their first use: once per machine, in seconds.

The user's cache keeps the library under a hash of its sources, the compiler and the processor. One rank of a machine builds a
library while the others wait for it; it writes to a temporary file and renames it.
"""

import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from numpy.typing import NDArray

from home_dist.files.lock import locked
from home_dist.files.private import is_private

PLAIN = ("-O3", "-std=c++20", "-fPIC", "-shared")
"""Flags of a source that computes what numpy would compute."""
PARALLEL = (*PLAIN, "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
"""Flags of a source of operators."""
_INCLUDED = re.compile(r'^#include "([^"]+)"', re.MULTILINE)
_TIMEOUT = 120.0  # seconds; a build takes 5


class CannotBuild(Exception):
    """A library could not be compiled or loaded; the message is the reason."""


@functools.cache
def native_library(source: Path, flags: tuple[str, ...]) -> ctypes.CDLL:
    """Builds and loads the library of `source`, which may include files of its folder. Raises CannotBuild."""
    compiler = os.environ.get("CXX") or next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), None)
    if compiler is None:
        raise CannotBuild("no C++ compiler")
    try:
        version = subprocess.run([*compiler.split(), "--version"], capture_output=True, text=True, timeout=20, check=True)
        key = "\n".join([*_texts(source), source.name, " ".join(flags), compiler, version.stdout, _processor()])
        library = _folder() / f"{source.stem}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
        if not library.exists():
            with locked(library.with_suffix(".lock")):
                if not library.exists():
                    _compile(compiler, source, flags, library)
        return ctypes.CDLL(str(library))
    except subprocess.CalledProcessError as error:
        raise CannotBuild(f"{compiler} failed: {(error.stderr or error.stdout or '').strip()[:200]}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotBuild(f"{compiler} failed: {error}") from None


@functools.cache
def library_if_possible(source: Path) -> ctypes.CDLL | None:
    """The library of a source whose work numpy or torch can do as well, only slower; None without a compiler."""
    try:
        return native_library(source, PLAIN)
    except CannotBuild:
        return None


def _texts(source: Path) -> list[str]:
    """The texts of a source and of the project's files that it includes, directly or not."""
    found: dict[Path, str] = {}
    waiting = [source.resolve()]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found[path] = path.read_text()
            waiting += [(path.parent / name).resolve() for name in _INCLUDED.findall(found[path])]
    return list(found.values())


def build_beside(libraries: Sequence[tuple[Path, tuple[str, ...]]]) -> None:
    """Starts to compile sources (path, flags) whose libraries are missing, and returns: the caller imports torch meanwhile. Who
    needs a library waits for it; who cannot get it is told why then."""
    for source, flags in libraries:
        threading.Thread(target=_try_to_build, args=(source, flags), name=f"build {source.stem}", daemon=True).start()


def _try_to_build(source: Path, flags: tuple[str, ...]) -> None:
    with suppress(CannotBuild):
        native_library(source, flags)


def pointer(array: NDArray) -> ctypes.c_void_p:
    """To an array's values, which it keeps alive."""
    return array.ctypes.data_as(ctypes.c_void_p)


def _compile(compiler: str, source: Path, flags: Sequence[str], library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / library.name
        # Not every architecture's compiler knows -march=native.
        for target in (["-march=native"], ["-mcpu=native"], []):
            command = [*compiler.split(), *flags, *target, str(source), "-o", str(made)]
            build = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT)
            if build.returncode == 0:
                break
        build.check_returncode()
        os.replace(made, library)


def _folder() -> Path:
    """The folder that keeps libraries: in the user's cache, or a private one for temporary files. Raises CannotBuild."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    for folder in (Path(cache) / "home_dist", Path(tempfile.gettempdir()) / f"home_dist-{os.getuid()}"):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            continue
        # Another user who may write to the folder could put code into it.
        if is_private(folder.resolve()) and os.access(folder, os.W_OK):
            return folder
    raise CannotBuild("no folder to keep the compiled library in")


def _processor() -> str:
    """The processor's model and features, on which -march=native depends: machines of several kinds may share a home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
