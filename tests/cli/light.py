"""Runs a command in a process of its own, which fails if it has imported torch."""

import subprocess
import sys

from tests.ranks import REPOSITORY

PROGRAM = """
import sys
from home_dist.cli import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
for name in ("torch", "torchrec", "matplotlib"):
    assert name not in sys.modules, name
print("light")
"""


def ended(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
