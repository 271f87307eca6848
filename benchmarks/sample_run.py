"""A training run on the sample, for benchmarks that read its record."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from home_dist.insight.store import CURVES, Store

ROOT = Path(__file__).resolve().parent.parent


def curves(run: Path, ranks: int, options: Mapping[str, object]) -> list[dict[str, Any]]:
    """Trains into `run`, without evaluation, and returns its lines of progress but the first, whose steps allocate."""
    options = {"run.dir": run, "data.validation": "''", "data.test": "''", **options}
    several = ["torch.distributed.run", "--nproc-per-node", str(ranks), "--rdzv-backend", "c10d"]
    several += ["--rdzv-endpoint", "localhost:0", "-m"]
    command = [sys.executable, "-m", *(several if ranks > 1 else []), "home_dist.cli", "train"]
    command += [str(ROOT / "configs" / "kuairand_pure.toml")]
    command += [part for key, value in options.items() for part in ("--set", f"{key}={value}")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if ended.returncode:
        sys.exit(f"the run failed:\n{ended.stdout}{ended.stderr}")
    return Store(run / "insight").lines(CURVES)[1:]
