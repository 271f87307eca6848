"""What each change for speed gained, measured anew: both sides of a change take turns on this machine.

    python benchmarks/ladder.py            # rungs that results/ladder.json does not have yet, some minutes each
    python benchmarks/ladder.py --again    # all of them
    python benchmarks/ladder.py --quick    # the last rung, one turn, under 50 s; writes nothing

A rung is a commit against the one before it, or a setting against none, of which `home-dist bench` is run alternately from work
trees of both: the peers' MMoE in fp32 and bf16 (benchmarks/peers.py), and the README's HoME, each in one process. Steps that
gained nothing stay in. The table is written to benchmarks/README.md, too.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.claims import claim  # noqa: E402
from benchmarks.machine import measured_on  # noqa: E402
from benchmarks.peers_data import SAMPLE, sample_as_ids  # noqa: E402
from benchmarks.sample_run import SINGLE, output_of, set_options  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "benchmarks" / "README.md"
BEGIN, END = "<!-- ladder: written by ladder.py -->", "<!-- end of ladder -->"


@dataclass(frozen=True)
class Rung:
    what: str
    commit: str
    """Of which the parent is the other side, unless `setting` is."""
    setting: dict[str, str] = field(default_factory=dict)
    """Environment of the second side; the first one has `against`."""
    against: dict[str, str] = field(default_factory=dict)


RUNGS = [
    Rung("bf16: gradients of an input are one product of all its experts", "5388e9a"),
    Rung("small tables: the backward of index_select instead of embedding's", "5529430"),
    Rung("the feature vector is not copied where there is nothing to join", "d25607e"),
    Rung("no DDP on one rank", "e2b7726"),
    Rung("waiting threads spin for half a millisecond before they sleep", "2ab78e0"),
    Rung("they spin 30 times longer, as libgomp would", "2ab78e0", {"GOMP_SPINCOUNT": "300000"}, {"GOMP_SPINCOUNT": "10000"}),
    Rung("huge pages for large tensors", "2ab78e0", {"THP_MEM_ALLOC_ENABLE": "1"}, {"THP_MEM_ALLOC_ENABLE": "0"}),
    Rung("dropout of experts within the fused passes", "53a4e29"),
    Rung("feature gates: each direction one call, products included", "f7f83f5"),
    Rung("dropout of the feature vector in one pass", "bbdcf3f"),
    Rung("DIN: one compiled kernel both ways", "4a0ee4a"),
    Rung("kernels take pieces from a queue instead of OpenMP's loops", "06f3dd4"),
    Rung("small tables' gradients are one compiled sum; OpenMP's threads hardly spin", "38908fc"),
    Rung("gates' products by the kernels' own threads", "a31797d"),
    Rung("bf16: the BLAS's own product, all layers in one call, gates hand over bf16", "9266701"),
    Rung("feature gates: one product for activations and shares' scores", "d276429"),
    Rung("addresses of experts without an operator for each", "eac2107"),
    Rung("memory stays between steps, in large pages; OpenMP's threads sleep later", "d7d0e3c"),
]
CASES = ("MMoE, fp32", "MMoE, bf16", "README's HoME")
Rates = dict[str, dict[str, list[float]]]
"""By case and side ("before", "after"): samples/s."""


def bench(tree: Path, case: str, data: Path, environment: dict[str, str], steps: int) -> float:
    cores = len(os.sched_getaffinity(0))
    if case == CASES[2]:
        config, settings = ROOT / "configs" / "kuairand_pure.toml", [f"data.path={SAMPLE}"]
    else:
        config, settings = data / "run.toml", [f"kernel.precision={case.rpartition(' ')[2]}"]
    out = data / "bench.json"
    command = [*SINGLE, "bench", config, "--out", out, "--traced", "1", "--steps", str(steps), "--warm-up", str(steps // 4)]
    output_of([*command, *set_options([*settings, f"distributed.threads={cores}"])], environment, tree, timeout=600)
    return float(json.loads(out.read_text())["samples_per_second"])


def climb(rung: Rung, data: Path, trees: Path, turns: int, steps: int) -> Rates:
    before = rung.commit if rung.setting else f"{rung.commit}^"
    sides = {"before": (before, rung.against), "after": (rung.commit, rung.setting)}
    for commit, _ in sides.values():
        tree = trees / commit.replace("^", "-parent")
        if not tree.is_dir():
            _git("worktree", "add", "--detach", str(tree), commit)
    found: Rates = {case: {side: [] for side in sides} for case in CASES}
    for turn in range(turns):
        for case in CASES:
            for side, (commit, environment) in sides.items():
                tree = trees / commit.replace("^", "-parent")
                found[case][side].append(bench(tree, case, data, environment, steps * (4 if case == CASES[2] else 1)))
            ratio = found[case]["after"][-1] / found[case]["before"][-1]
            print(f"{rung.what}, turn {turn + 1} of {turns}, {case}: {ratio:.3f}", flush=True)
    return found


def _git(*args: str) -> None:
    subprocess.run(["git", *args], cwd=ROOT, check=True, capture_output=True)


def gained(rates: Rates) -> dict[str, float]:
    return {case: statistics.median(sides["after"]) / statistics.median(sides["before"]) for case, sides in rates.items()}


def table(rungs: dict[str, Rates]) -> str:
    lines = ["Samples/s after a change over those before it, medians of turns; in brackets the lowest and highest of a turn."]
    lines += ["", f"| change | {' | '.join(CASES)} |", "|---|" + "---|" * len(CASES)]
    for what, rates in rungs.items():
        cells = []
        for case, middle in gained(rates).items():
            turns = [a / b for a, b in zip(rates[case]["after"], rates[case]["before"], strict=True)]
            cells.append(f"{middle:.2f} ({min(turns):.2f} to {max(turns):.2f})")
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the last rung, one turn of few steps; writes nothing")
    parser.add_argument("--again", action="store_true", help="measure rungs again that are there")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    stored = RESULTS / "ladder.json"
    known: dict[str, Rates] = json.loads(stored.read_text()) if stored.is_file() and not options.again else {}
    machines: dict[str, Any] = known.pop("measured_on", {})
    with tempfile.TemporaryDirectory() as scratch:
        data, trees = Path(scratch, "data"), Path(scratch, "trees")
        sample_as_ids(data)
        try:
            if options.quick:
                rung = RUNGS[-1]
                known = {rung.what: climb(rung, data, trees, 1, 4)}
            for rung in RUNGS if not options.quick else []:
                if rung.what not in known:
                    known[rung.what] = climb(rung, data, trees, options.turns, 16)
                    machines[rung.what] = measured_on()
                    there = [r.what for r in RUNGS if r.what in known]
                    result: dict[str, Any] = {what: known[what] for what in there}
                    result["measured_on"] = {what: machines[what] for what in there if what in machines}
                    stored.write_text(json.dumps(result) + "\n")
        finally:
            for tree in trees.glob("*"):
                _git("worktree", "remove", "--force", str(tree))
    text = table(known)
    print(text)
    if not options.quick:
        (RESULTS / "ladder.md").write_text(text + "\n")
        readme = README.read_text()
        head, tail = readme.split(BEGIN)[0], readme.split(END)[1]
        README.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{tail}")
    for what, rates in known.items():
        for case, ratio in gained(rates).items():
            print(claim(f"{what}: {case}", ratio, 1))


if __name__ == "__main__":
    main()
