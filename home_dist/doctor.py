"""`home-dist doctor`: is this machine fit to train, and if not, what to do. Each finding that is not fine comes with a fix."""

import importlib.metadata as metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from home_dist.fbgemm import installed

State = Literal["ok", "note", "problem"]

_IMPORT_SECONDS = 120
_MEMORY_GIB, _DISK_GIB, _SHARED_MIB, _OPEN_FILES = 4, 2, 64, 1024
_PINNED_MIB = 256
_FBGEMM_CODE = ("sm_80", "sm_90a", "sm_100a")
"""What cuobjdump lists in the wheel of fbgemm-gpu 1.8.0."""


@dataclass(frozen=True)
class Check:
    """`what` was looked at, `found` there, and what to do about it."""

    state: State
    what: str
    found: str
    fix: str = ""


def main() -> list[Check]:
    """Prints all findings as they come."""
    marks = {"ok": "ok     ", "note": "note   ", "problem": "PROBLEM"}
    found = []
    for finding in findings():
        found.append(finding)
        print(f"{marks[finding.state]}  {finding.what}: {finding.found}", flush=True)
        if finding.fix:
            print(f"         -> {finding.fix}", flush=True)
    states = [finding.state for finding in found]
    problems = states.count("problem")
    print(f"{problems} problem{'s' if problems != 1 else ''}, {states.count('note')} to note, {states.count('ok')} fine")
    return found


def exit_code(found: Sequence[Check]) -> int:
    """1 if a check found a problem, else 0."""
    return int(any(check.state == "problem" for check in found))


def findings() -> Iterator[Check]:
    checks: list[Callable[[], Iterator[Check]]] = [
        *(python, versions, fbgemm, devices, group),
        *(driver, code_for_gpus, between_gpus, pinned_memory, kernel, resources),
    ]
    for check in checks:
        try:
            yield from check()
        except Exception as error:  # a doctor that falls ill still looks at the rest
            yield Check("problem", check.__name__, f"{type(error).__name__}: {error}", "Install anew: make clean install")


def python() -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    right = (3, 11) <= sys.version_info[:2] <= (3, 13)
    fix = "" if right else "The locks hold wheels of Python 3.11 to 3.13: make clean install PYTHON=python3.11"
    yield Check("ok" if right else "problem", "Python", f"{version} in {sys.prefix}", fix)


def versions() -> Iterator[Check]:
    """What pyproject.toml pins against what is installed."""
    fix = "Install the lock anew: make clean install"
    try:
        required = metadata.requires("home_dist") or []
    except metadata.PackageNotFoundError:
        yield Check("problem", "home_dist", "not installed in this Python", "make install, then .venv/bin/home-dist doctor")
        return
    pins = [m for r in required if "extra ==" not in r and (m := re.match(r"([\w.-]+)==([\w.]+)", r))]
    wrong = 0
    for name, wanted in (m.groups() for m in pins):
        there = installed(name)
        if there is None or there.partition("+")[0] != wanted:
            wrong += 1
            yield Check("problem", name, f"{there or 'missing'}, but {wanted} is what was tried together", fix)
    if not wrong:
        yield Check("ok", "versions", f"{len(pins)} pinned packages, torch {installed('torch')}")


def fbgemm() -> Iterator[Check]:
    """torchrec asks for fbgemm-gpu, which lies in the same folder as fbgemm-gpu-cpu: pip installs one over the other."""
    cpu, gpu = installed("fbgemm-gpu-cpu"), installed("fbgemm-gpu")
    packages = ", ".join(f"{n} {v}" for n, v in (("fbgemm-gpu-cpu", cpu), ("fbgemm-gpu", gpu)) if v)
    platform = "gpu" if has_nvidia() else "cpu"
    if cpu and gpu:
        fix = f"Both lie in one folder and overwrite each other; keep one: make clean install PLATFORM={platform}"
        yield Check("problem", "fbgemm", f"{packages} are both installed", fix)
    elif not packages:
        yield Check("problem", "fbgemm", "missing", f"make clean install PLATFORM={platform}")
    failure = import_failure("fbgemm_gpu")
    if failure is None:
        yield Check("ok", "fbgemm operators", f"{packages or 'unknown version'}, loaded")
    elif "lib" in failure and "cuda" in failure.lower():
        fix = "The CUDA build is installed on a machine without CUDA libraries: make clean install PLATFORM=cpu"
        yield Check("problem", "fbgemm operators", failure, fix)
    else:
        yield Check("problem", "fbgemm operators", failure, f"make clean install PLATFORM={platform}")


def devices() -> Iterator[Check]:
    import torch

    cores = len(os.sched_getaffinity(0))
    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
        yield Check("ok", "devices", f"{torch.cuda.device_count()} x {', '.join(sorted(names))}, {cores} cores")
    elif has_nvidia():
        fix = "make clean install PLATFORM=gpu, or update the driver if that build is installed"
        yield Check("problem", "devices", f"the driver sees a GPU, torch {torch.__version__} does not", fix)
    else:
        yield Check("ok", "devices", f"CPU, {cores} cores; no GPU")


def group() -> Iterator[Check]:
    """A process group of one over the backend that a run would take."""
    code = (
        "import torch, torch.distributed as d\n"
        "d.init_process_group('gloo', store=d.HashStore(), rank=0, world_size=1)\n"
        "x = torch.ones(1); d.all_reduce(x); d.destroy_process_group()"
    )
    failure = run_python(code)
    if failure:
        fix = "Often the host's name has no address: add it to /etc/hosts, or set GLOO_SOCKET_IFNAME=lo for a single host"
        yield Check("problem", "gloo", failure, fix)
    else:
        yield Check("ok", "gloo", "a process group forms")


def driver() -> Iterator[Check]:
    """The driver has to know the CUDA that torch was built for, of this or of an earlier minor version."""
    import torch

    if not torch.cuda.is_available():
        return
    # Tens of units are the minor version: 13010 is 13.1.
    known, built = torch._C._cuda_getDriverVersion(), torch.version.cuda or "0"  # type: ignore[attr-defined]
    found = f"the driver knows CUDA {known // 1000}.{known % 1000 // 10}, torch was built for {built}"
    if known // 1000 < int(built.partition(".")[0]):
        yield Check("problem", "driver", found, f"Update the driver to one for CUDA {built}")
    else:
        yield Check("ok", "driver", found)


def code_for_gpus() -> Iterator[Check]:
    """Whether torch and FBGEMM hold code for each GPU's compute capability."""
    import torch

    if not torch.cuda.is_available():
        return
    of_torch = torch.cuda.get_arch_list()
    for capability in sorted({torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}):
        major, minor = capability
        name = f"compute capability {major}.{minor}"
        if not _runs(of_torch, capability):
            fix = f"Install a build of torch for it: this one has {', '.join(of_torch)}"
            yield Check("problem", name, "torch holds no code for it", fix)
        elif not _runs(_FBGEMM_CODE, capability):
            fix = (
                f"Take a GPU of capability 8.x, 9.0 or 10.0, or build FBGEMM from its source with TORCH_CUDA_ARCH_LIST="
                f'"{major}.{minor}"; else the first look-up ends with "no kernel image is available"'
            )
            found = f"the wheel of fbgemm-gpu 1.8.0 holds code for {', '.join(_FBGEMM_CODE)} alone"
            yield Check("problem", name, found, fix)
        else:
            yield Check("ok", name, "torch and FBGEMM hold code for it")


def _runs(code: Sequence[str], capability: tuple[int, int]) -> bool:
    """Whether one of the targets runs on a GPU: sm_XY on X.Y and later minor versions, sm_XYa on X.Y alone, compute_XY on all
    later ones, for which the driver compiles it."""
    for target in code:
        kind, _, number = target.partition("_")
        of = int(number.rstrip("af")[:-1]), int(number.rstrip("af")[-1])
        exact = number.endswith("a")
        if of == capability or (not exact and of < capability and (kind == "compute" or of[0] == capability[0])):
            return True
    return False


def between_gpus() -> Iterator[Check]:
    """nccl, and whether GPUs of this host reach each other's memory."""
    import torch

    if not torch.cuda.is_available():
        return
    if not torch.distributed.is_nccl_available():
        yield Check("problem", "nccl", "this torch has none", "make clean install PLATFORM=gpu")
        return
    count = torch.cuda.device_count()
    code = (
        "import torch, torch.cuda.nccl as n\n"
        f"x = [torch.ones(1 << 20, device=i) for i in range({count})]; n.all_reduce(x)\n"
        f"found = [float(t.min()) for t in x]; assert found == [{count}.0] * {count}, f'wrong sums: {{found}}'"
    )
    failure = run_python(code)
    if failure:
        fix = "NCCL_DEBUG=INFO tells more; in a container: --shm-size=1g; NCCL_P2P_DISABLE=1 if peer access is broken"
        yield Check("problem", "nccl", failure, fix)
    else:
        yield Check("ok", "nccl", f"all-reduce over {count} GPU{'s' if count > 1 else ''} of this host")
    apart = [(i, j) for i in range(count) for j in range(count) if i != j and not torch.cuda.can_device_access_peer(i, j)]
    if apart:
        pairs = ", ".join(f"{i} and {j}" for i, j in apart if (j, i) not in apart or i < j)
        fix = "Exchanges between them go through the host's memory. Look at nvidia-smi topo -m, and at the host's IOMMU (ACS)"
        yield Check("note", "peer access", f"none between GPUs {pairs}", fix)
    elif count > 1:
        yield Check("ok", "peer access", f"between all {count} GPUs")


def pinned_memory() -> Iterator[Check]:
    """Batches are read into it; without, a step waits for its copy."""
    import torch

    if not torch.cuda.is_available():
        return
    failure = run_python(f"import torch; torch.empty({_PINNED_MIB} << 20, dtype=torch.uint8, pin_memory=True).to('cuda').cpu()")
    if failure:
        yield Check(
            "problem",
            "pinned memory",
            failure,
            "Allow locked memory: ulimit -l unlimited, or in a container --ulimit memlock=-1",
        )
    else:
        yield Check("ok", "pinned memory", f"{_PINNED_MIB} MiB, copied to the GPU and back")


def kernel() -> Iterator[Check]:
    import torch

    from home_dist.config import KernelSection
    from home_dist.experts.kernels import choose

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    yield Check("ok", "expert kernel", str(choose(device, KernelSection())))
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")
    if compiler is None:
        fix = "Install a C++ compiler, for example apt-get install g++"
        yield Check(
            "note", "C++ compiler", "none: experts on a CPU are computed by eager torch, slower and in more memory", fix
        )


def resources() -> Iterator[Check]:
    memory = psutil.virtual_memory().available / 2**30
    fix = "Use fewer ranks, a smaller train.batch_size or smaller tables, or free memory"
    yield _enough("free memory", memory, _MEMORY_GIB, "GiB", fix)
    disk = shutil.disk_usage(Path.cwd()).free / 2**30
    yield _enough("free disk here", disk, _DISK_GIB, "GiB", "Make room, or set run.dir to another disk")
    shared = Path("/dev/shm")
    if shared.is_dir():
        fix = "Ranks of one host exchange through it; in a container: --shm-size=1g"
        yield _enough("free /dev/shm", shutil.disk_usage(shared).free / 2**20, _SHARED_MIB, "MiB", fix)
    files = psutil.Process().rlimit(psutil.RLIMIT_NOFILE)[0]
    yield _enough("open files allowed", files if files >= 0 else float("inf"), _OPEN_FILES, "", "ulimit -n 65536")


def _enough(what: str, measured: float, wanted: float, unit: str, fix: str) -> Check:
    amount = f"{measured:,.0f} {unit}".strip()
    if measured >= wanted:
        return Check("ok", what, amount)
    return Check("note", what, f"{amount}, less than {wanted:,} {unit}".strip(), fix)


def has_nvidia() -> bool:
    """Whether the driver sees a GPU."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return False
    try:
        return bool(subprocess.run([command, "-L"], capture_output=True, timeout=20).stdout.strip())
    except subprocess.TimeoutExpired:
        return False


def import_failure(module: str) -> str | None:
    return run_python(f"import torch, {module}")


def run_python(code: str) -> str | None:
    """Runs code in a process of its own, which may crash; the last line of its error, None if it has none."""
    try:
        ended = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=_IMPORT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {_IMPORT_SECONDS} s"
    if ended.returncode == 0:
        return None
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"ended with exit code {ended.returncode}"
