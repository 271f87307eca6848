"""What the results say of the machine that they are of, and of the process."""

import platform
from pathlib import Path


def processor() -> str:
    """The processor's name, or its architecture where that is not told."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def vectors() -> str:
    """The text ", AVX-512" where the processor has it; else nothing."""
    return ", AVX-512" if "avx512f" in Path("/proc/cpuinfo").read_text() else ""


def memory(key: str) -> int:
    """Bytes of this process; key: of /proc, such as VmHWM, its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {key} in /proc/self/status")
