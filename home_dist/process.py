"""Settings of a process that trains, made before torch is imported, which reads them then."""

import logging
import os
import time
import warnings
from pathlib import Path

_SETTINGS = {
    # How often a thread of OpenMP that waits for others looks before it sleeps: some microseconds. With libgomp's 300,000, or
    # with 10,000, it keeps other threads off its core, those of the kernels' own pool (experts/kernels/native/pool.hpp) as
    # well: half of the samples/s was lost beside a busy process, and none were gained without.
    "GOMP_SPINCOUNT": "100",
    # Large tensors lie in pages of 2 MB: with those of 4 KB, the first touch of each page takes longer than what is computed
    # in it (two thirds of the time of a search in a history of 100,000 events).
    "THP_MEM_ALLOC_ENABLE": "1",
    # The profiler tells only of errors, not that it begins and ends.
    "KINETO_LOG_LEVEL": "6",
}


def prepare() -> None:
    """What the user has set stays."""
    for name, value in _SETTINGS.items():
        if name != "GOMP_SPINCOUNT" or "OMP_WAIT_POLICY" not in os.environ:  # of which it says the same, and would win
            os.environ.setdefault(name, value)


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
