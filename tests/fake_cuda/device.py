"""Makes a device "cuda" in this process, without a GPU: for FakeTensorMode alone. Call `begin` before torch is imported.

It cannot be taken back, so that only a process of its own may call it.
"""

import ctypes
import importlib.metadata
import importlib.util
import sys
from pathlib import Path

from home_dist.native_library import native_library

_SOURCE = Path(__file__).parent / "guard.cpp"


def begin() -> None:
    """Builds the guard, once per machine and build of torch, and loads it. Raises CannotBuild."""
    if "torch" in sys.modules:
        raise RuntimeError("begin() has to come before torch is imported, which looks for a device once")
    spec = importlib.util.find_spec("torch")
    torch = Path(str(spec and spec.origin)).parent
    for name in ("libc10.so", "libtorch_cpu.so"):
        ctypes.CDLL(str(torch / "lib" / name), ctypes.RTLD_GLOBAL)
    include = torch / "include"
    flags = ("-O1", "-std=c++20", "-fPIC", "-shared", f"-I{include}", f"-I{include / 'torch/csrc/api/include'}")
    # torch's version, because a guard that was built for another one must not be taken from the cache.
    native_library(
        _SOURCE, (*flags, f"-DTORCH_{''.join(c if c.isalnum() else '_' for c in importlib.metadata.version('torch'))}")
    )
