"""How benchmarks start home-dist, and a training run on the sample for those that read its record."""

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from home_dist.insight.run_files import CURVES
from home_dist.insight.store import InsightStore

ROOT = Path(__file__).resolve().parent.parent


SINGLE = [sys.executable, "-m", "home_dist.cli"]
"""The begin of a command line of one process, which a command of home-dist follows."""


def torchrun(ranks: int) -> list[str]:
    """The begin of a command line, which a command of home-dist follows."""
    several = ["--nproc-per-node", str(ranks), "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    return [sys.executable, "-m", "home_dist.torchrun", *several, "-m", "home_dist.cli"]


def set_options(settings: Iterable[str]) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def output_of(
    command: Sequence[str | Path], environment: Mapping[str, str] | None = None, tree: Path = ROOT, timeout: float = 1800
) -> str:
    """What a command prints that runs with the code of `tree`. Ends this process, with what it said, if it fails.

    environment: variables added to this process's. timeout: in seconds.
    """
    variables = {**os.environ, "PYTHONPATH": str(tree), **(environment or {})}
    line = [str(part) for part in command]
    ended = subprocess.run(line, cwd=tree, env=variables, capture_output=True, text=True, timeout=timeout)
    if ended.returncode:
        sys.exit(f"failed: {' '.join(line)}\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}")
    return ended.stdout


def curves(run: Path, ranks: int, options: Mapping[str, object]) -> list[dict[str, Any]]:
    """Trains into `run`, without evaluation, and returns its lines of progress but the first, whose steps allocate."""
    options = {"run.dir": run, "data.validation": "''", "data.test": "''", **options}
    settings = set_options(f"{key}={value}" for key, value in options.items())
    output_of([*(torchrun(ranks) if ranks > 1 else SINGLE), "train", ROOT / "configs" / "kuairand_pure.toml", *settings])
    return InsightStore(run / "insight").lines(CURVES)[1:]
