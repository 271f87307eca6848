"""What it costs a step to note the rows that it touches, for deltas that servers take.

    python benchmarks/touched.py            # README's HoME on the sample, one rank: some minutes
    python benchmarks/touched.py --quick    # under 50 s: fewer turns; writes nothing

The same process trains in turns of a few steps with marks and without them, so that both see the same load of the machine. A
pair is a turn of each, and the order within pairs alternates. The cost is the median, over pairs, of how much longer the steps
with marks take. The time spent in marking itself is measured apart, with a clock around each look-up's marks.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.claims import claim  # noqa: E402
from benchmarks.machine import write_result  # noqa: E402
from home_dist.config import load_config  # noqa: E402
from home_dist.data.inputs import open_inputs  # noqa: E402
from home_dist.data.side_files import schema_of  # noqa: E402
from home_dist.distributed.ranks import form_ranks  # noqa: E402
from home_dist.embeddings import touched  # noqa: E402
from home_dist.training.build import build  # noqa: E402
from home_dist.training.optimizers import Schedule  # noqa: E402
from home_dist.training.pipeline import Pipeline, begin_step  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "touched.json"
TURN = 4
"""Steps of a turn."""


class Clocked(touched.Marking):
    """Marks, and counts the seconds that they take."""

    seconds = 0.0

    def __call__(self, lookup: Any, arguments: Any) -> None:
        began = time.perf_counter()
        super().__call__(lookup, arguments)
        Clocked.seconds += time.perf_counter() - began


def measured(pairs: int, folder: str) -> dict[str, Any]:
    config = load_config(ROOT / "configs" / "kuairand_pure.toml", [f"run.dir={folder}/run"])
    inputs = open_inputs(config, schema_of(config), ("train",))
    ranks = form_ranks(config.distributed)
    built = build(inputs, ranks)
    pipeline, steps = Pipeline.of(built, ranks, 1), 4 + 2 * TURN * pairs + TURN
    schedule = Schedule(built.optimizer, config.train, steps)
    batches = inputs.training_reader(ranks).epochs(0, 100)
    built.model.train()
    done = 0

    def turn(count: int) -> float:
        """Seconds of so many steps."""
        nonlocal done
        began = time.perf_counter()
        for _ in range(count):
            begin_step(built, schedule, config.train, done, 0)
            pipeline.progress(batches)
            done += 1
        return time.perf_counter() - began

    turn(4)
    shares = []
    for pair in range(pairs):
        seconds = {}
        for with_marks in (True, False) if pair % 2 else (False, True):
            noted = touched.TouchedRows(built.model) if with_marks else None
            seconds[with_marks] = turn(TURN)
            if noted is not None:
                noted.close()
        shares.append(seconds[True] / seconds[False] - 1)
    plain, touched.Marking = touched.Marking, Clocked  # type: ignore[misc]
    noted = touched.TouchedRows(built.model)
    whole, inside = turn(TURN), Clocked.seconds
    touched.Marking = plain  # type: ignore[misc]
    rows = {f"{table}+{first}": int(marks.sum()) for (table, first), marks in noted.marks.items()}
    noted.close()
    batches.close()
    return {"shares": shares, "seconds_of_step": whole / TURN, "marking_share": inside / whole, "rows_of_turn": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as folder:
        found = measured(6 if quick else 60, folder)
    quarters = statistics.quantiles(found["shares"], n=4)
    print(
        f"a step takes {found['seconds_of_step'] * 1e3:.0f} ms on {torch.get_num_threads()} threads; with marks "
        f"{quarters[1]:+.2%} (quartiles {quarters[0]:+.2%} and {quarters[2]:+.2%} of {len(found['shares'])} pairs); in marking "
        f"itself {found['marking_share']:.3%}; rows touched in {TURN} steps: {sum(found['rows_of_turn'].values()):,}"
    )
    print(claim("touched rows, share of a step in marking", found["marking_share"], 0.01, at_most=True, form=".4f"))
    print(claim("touched rows, cost of a step, median of pairs", quarters[1], 0.01, at_most=True, form=".4f"))
    if not quick:
        write_result(RESULTS, found)


if __name__ == "__main__":
    main()
