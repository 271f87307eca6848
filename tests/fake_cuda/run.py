"""Runs steps on fake CUDA tensors, in this process.

python -m tests.fake_cuda.run {fast,slow,PATTERN} writes to stdout, by case, its operators, or a text that says what is wrong;
--record writes the numbers of all cases to operators.json.
"""

import fnmatch
import json
import sys
import time
import traceback
import warnings
from pathlib import Path

from tests.fake_cuda import device

RECORD = Path(__file__).parent / "operators.json"


def main(which: str) -> int:
    device.begin()
    warnings.simplefilter("ignore")
    from tests.fake_cuda.cases import cases, is_slow
    from tests.fake_cuda.steps import operators, prepare

    prepare()
    found: dict[str, int | str] = {}
    for name, settings in cases().items():
        chosen = {"fast": not is_slow(name), "slow": is_slow(name), "--record": True}
        if not chosen.get(which, fnmatch.fnmatch(name, which)):
            continue
        begin = time.perf_counter()
        try:
            found[name] = operators(settings)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error} | {_place(error)}"
        print(f"{time.perf_counter() - begin:6.2f} s  {name}: {found[name]}", file=sys.stderr, flush=True)
    broken = {name: text for name, text in found.items() if isinstance(text, str)}
    if which == "--record":
        if broken:
            print(f"nothing recorded: {json.dumps(broken, indent=1)}", file=sys.stderr)
            return 1
        RECORD.write_text(json.dumps(found, indent=0) + "\n")
    else:
        json.dump(found, sys.stdout)
    return 0


def _place(error: Exception) -> str:
    """The innermost lines of the repository."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/home_dist/" in f.filename or "/tests/" in f.filename]
    return " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames[-4:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
