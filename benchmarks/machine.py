"""What the results say of the machine that they are of, and of the process."""

import datetime
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any


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


def measured_on() -> dict[str, Any]:
    """The machine, its load, the libraries and the day."""
    return {
        "processor": processor() + vectors(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "torch": importlib.metadata.version("torch"),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Writes a result as JSON, and with it what it was measured on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**result, "measured_on": measured_on()}, indent=1) + "\n")
