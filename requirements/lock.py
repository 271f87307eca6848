"""Writes the lock files from pyproject.toml: `make lock`, or `python requirements/lock.py` with network access.

gpu.lock and cpu.lock hold everything a run needs, dev.lock what tests, linters and benchmarks need on top. All versions
come from pip's own resolver (a dry run, which reads metadata and downloads no large file), so that they fit together.
The CPU lock is the GPU lock without CUDA packages and with fbgemm-gpu-cpu for fbgemm-gpu.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
RESOLVER = "pip==26.3"  # older ones download the wheels in a dry run
CUDA = re.compile(r"^(nvidia-|cuda-|triton$|fbgemm-gpu$)")
# Of what a run needs, for what tests need beside it: botocore, under the S3 server of the tests, takes no later dateutil.
BOUNDS = ["python-dateutil<3"]
HEADER = "# Written by `make lock` from pyproject.toml: do not edit by hand.\n"


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def resolve(pip: Path, requirements: list[str], scratch: Path) -> dict[str, str]:
    """Name -> version of everything that `requirements` bring, on this platform and Python."""
    report = scratch / "report.json"
    # Configured folders of wheels are left out: a CPU build of torch there would hide the CUDA packages.
    environment = {k: v for k, v in os.environ.items() if k != "PIP_FIND_LINKS"} | {"PIP_CONFIG_FILE": os.devnull}
    command = [str(pip), "install", "--quiet", "--dry-run", "--ignore-installed", "--report", str(report)]
    subprocess.run([*command, *requirements], check=True, env=environment)
    found = {}
    for item in json.loads(report.read_text())["install"]:
        found[normalized(item["metadata"]["name"])] = item["metadata"]["version"].partition("+")[0]
    return found


def write(name: str, comment: str, pins: dict[str, str]) -> None:
    lines = [f"{package}=={version}\n" for package, version in sorted(pins.items())]
    (HERE / name).write_text(HEADER + "".join(f"# {line}\n" for line in comment.splitlines()) + "".join(lines))
    print(f"requirements/{name}: {len(pins)} packages")


def main() -> None:
    if sys.version_info[:2] != (3, 11) or sys.platform != "linux":
        sys.exit("The locks hold what the oldest Python on Linux, 3.11, needs, and later ones too: make them there.")
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    runtime = project["dependencies"] + extras["gpu"] + BOUNDS
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        subprocess.run([sys.executable, "-m", "venv", str(scratch / "venv")], check=True)
        pip = scratch / "venv" / "bin" / "pip"
        subprocess.run([str(pip), "install", "--quiet", "--upgrade", RESOLVER], check=True)
        gpu = resolve(pip, runtime, scratch)
        pinned = [f"{name}=={version}" for name, version in gpu.items()]
        everything = resolve(pip, pinned + extras["dev"] + extras["bench"], scratch)
    cpu = {name: version for name, version in gpu.items() if not CUDA.match(name)}
    for requirement in extras["cpu"]:
        name, _, version = requirement.partition("==")
        cpu[normalized(name)] = version
    write("gpu.lock", "For machines with CUDA. Complete: install with --no-deps.", gpu)
    write(
        "cpu.lock",
        "For machines without CUDA. Install torch first and with its dependencies, under gpu.lock as constraints,\n"
        "then this with --no-deps: torchrec would bring fbgemm-gpu, which overwrites fbgemm-gpu-cpu and then cannot\n"
        "be imported. The Makefile does both.",
        cpu,
    )
    named = {normalized(r.partition("==")[0]) for r in extras["dev"] + extras["bench"]}
    write(
        "dev.lock",
        "What tests, linters and benchmarks need on top of cpu.lock or gpu.lock. Install with --no-deps.",
        # What only gpu.lock has is listed where it is asked for by name: triton.
        {n: version for n, version in everything.items() if n not in gpu or (n in named and n not in cpu)},
    )


if __name__ == "__main__":
    main()
