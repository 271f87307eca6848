"""Settings of a process that trains, made before torch is imported, which reads them then."""

import logging
import os
import platform
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path

_SETTINGS = {
    # How often a thread of OpenMP that waits for others looks before it sleeps: a tenth of a millisecond. With 100, torch's
    # operators wake a sleeping thread each time, which takes longer than most of them. With libgomp's 300,000, or with 10,000,
    # it keeps other threads off its core, those of the kernels' own pool (experts/kernels/native/pool.hpp) as well: half of the
    # samples/s was lost beside a busy process.
    "GOMP_SPINCOUNT": "2000",
    # Large tensors lie in pages of 2 MB: with those of 4 KB, the first touch of each page takes longer than what is computed
    # in it (two thirds of the time of a search in a history of 100,000 events).
    "THP_MEM_ALLOC_ENABLE": "1",
    # The profiler tells only of errors, not that it begins and ends.
    "KINETO_LOG_LEVEL": "6",
}

_TUNABLES = f"glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold={32 << 20}:glibc.malloc.trim_threshold={4 << 30}"
"""What a step gives back, the next step takes again: up to 4 GiB stay with the process, in pages of 2 MB where the system lets
programs ask for them. By default the system takes pages back and clears each one anew in the next step."""


def prepare() -> None:
    """What the user has set stays."""
    for name, value in _SETTINGS.items():
        if name != "GOMP_SPINCOUNT" or "OMP_WAIT_POLICY" not in os.environ:  # of which it says the same, and would win
            os.environ.setdefault(name, value)


def tune_allocator() -> None:
    """Starts a command of ours again, in the same process, with GLIBC_TUNABLES, which glibc reads when a program begins.

    Returns where there is nothing to do: another C library, a user's own GLIBC_TUNABLES, a program that is no command of ours
    alone, a debugger.
    """
    command = any(a == "home_dist.cli" or Path(a).name == "home-dist" for a in sys.orig_argv[1:])
    wanted = command and "GLIBC_TUNABLES" not in os.environ and platform.libc_ver()[0] == "glibc"
    if not wanted or not sys.executable or sys.gettrace():
        return
    sys.stdout.flush()
    sys.stderr.flush()
    with suppress(OSError):  # no such interpreter any more: the command goes on without
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "GLIBC_TUNABLES": _TUNABLES})


def age() -> float | None:
    """Seconds since this process began; None where the system does not tell."""
    try:
        began = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - began
    except (OSError, AttributeError, IndexError, ValueError):
        return None


def silence_libraries() -> None:
    """TorchRec and torch warn of deprecated calls within themselves, which no user of ours can change."""
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s", force=True)
    for name in ("torchrec", "torch.fx", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(torch|torchrec|fbgemm_gpu)\b")
    for text in (".*ShardedTensor", ".*LeafSpec"):
        warnings.filterwarnings("ignore", message=text, category=FutureWarning)
