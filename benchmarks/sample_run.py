"""How benchmarks start home-dist, and a training run on the sample for those that read its record."""

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from home_dist.insight.store import CURVES, Store

ROOT = Path(__file__).resolve().parent.parent


def torchrun(ranks: int) -> list[str]:
    """The begin of a command line, which a command of home-dist follows."""
    several = ["--nproc-per-node", str(ranks), "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    return [sys.executable, "-m", "home_dist.torchrun", *several, "-m", "home_dist.cli"]


def set_options(settings: Iterable[str]) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def curves(run: Path, ranks: int, options: Mapping[str, object]) -> list[dict[str, Any]]:
    """Trains into `run`, without evaluation, and returns its lines of progress but the first, whose steps allocate."""
    options = {"run.dir": run, "data.validation": "''", "data.test": "''", **options}
    command = torchrun(ranks) if ranks > 1 else [sys.executable, "-m", "home_dist.cli"]
    command += ["train", str(ROOT / "configs" / "kuairand_pure.toml")]
    command += set_options(f"{key}={value}" for key, value in options.items())
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if ended.returncode:
        sys.exit(f"the run failed:\n{ended.stdout}{ended.stderr}")
    return Store(run / "insight").lines(CURVES)[1:]
