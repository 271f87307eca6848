"""Fails when a ratio that a benchmark measures has fallen by a fifth: `make guard`.

    python benchmarks/guard.py             # the --quick versions of some benchmarks against guard.json
    python benchmarks/guard.py --record    # writes guard.json anew, from the worst of three runs: after a change that is meant

Only ratios within one run are compared, no seconds: those of the benchmarks' `claim:` lines that guard.json names. A machine
with other work disturbs a ratio now and then, a slower program does in every run: a script with a ratio that is too low is run
again, twice at most, and the best of its runs counts.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
REFERENCE = HERE / "guard.json"
WATCHED = {
    "expert_bank.py": "loop|memory|HoME",
    "sequence.py": "jagged",
    "peers.py": "plain",
    "scaling.py": "bytes",
}
"""Script -> which of its claims."""
ATTEMPTS, FALL = 3, 0.2
CLAIM = re.compile(r"^claim: (.+) = ([-+.\deE,]+) \(goal (>=|<=) ")


def measured(script: str) -> dict[str, tuple[float, bool]]:
    """By claim: value, and whether less is better."""
    command = [sys.executable, str(HERE / script), "--quick"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if ended.returncode:
        sys.exit(f"{script} failed\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}")
    found = {}
    for line in ended.stdout.splitlines():
        told = CLAIM.match(line)
        if told and re.search(WATCHED[script], told[1]):
            found[told[1]] = (float(told[2].replace(",", "")), told[3] == "<=")
    return found


def worse(value: float, than: float, less_is_better: bool) -> bool:
    return value > than if less_is_better else value < than


def record() -> None:
    reference: dict[str, dict[str, float]] = {}
    for script in WATCHED:
        for _ in range(ATTEMPTS):
            for name, (value, less) in measured(script).items():
                known = reference.setdefault(script, {}).setdefault(name, value)
                reference[script][name] = value if worse(value, known, less) else known
        print(script, reference[script], flush=True)
    REFERENCE.write_text(json.dumps(reference, indent=1) + "\n")


def check() -> bool:
    if not REFERENCE.is_file():
        sys.exit(f"{REFERENCE} is not there: nothing was recorded on this machine. --record does it")
    good = True
    for script, names in json.loads(REFERENCE.read_text()).items():
        best: dict[str, tuple[float, bool]] = {}
        for attempt in range(ATTEMPTS):
            for name, (value, less) in measured(script).items():
                if name not in best or worse(best[name][0], value, less):
                    best[name] = (value, less)
            missing = sorted(set(names) - set(best))
            if missing:
                sys.exit(f"{script} tells nothing of {missing[0]!r} any more: change guard.json with it")
            fallen = [n for n in names if worse(best[n][0], names[n] * (1 + FALL if best[n][1] else 1 - FALL), best[n][1])]
            if not fallen:
                break
            print(f"{script}, run {attempt + 1} of {ATTEMPTS}: {', '.join(fallen)}", flush=True)
        for name, known in names.items():
            verdict = "FALLEN" if name in fallen else "ok"
            print(f"{verdict:6} {script}: {name} = {best[name][0]:g} (recorded {known:g})", flush=True)
        good = good and not fallen
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="what it does anyway")
    parser.add_argument("--record", action="store_true", help="write guard.json anew")
    if parser.parse_args().record:
        record()
    elif not check():
        sys.exit("a ratio has fallen by more than a fifth in all of its runs")


if __name__ == "__main__":
    main()
