"""Runs a command in a process of its own, which fails if it has imported torch."""

import subprocess
import sys

from tests.ranks import REPOSITORY

PROGRAM = """
import sys
HEAVY = {heavy!r}
from home_dist.cli import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
for name in HEAVY:
    assert name not in sys.modules, name
print("light")
"""


def ended(*arguments: object, heavy: tuple[str, ...] = ("torch", "torchrec", "matplotlib")) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM.format(heavy=heavy), *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
