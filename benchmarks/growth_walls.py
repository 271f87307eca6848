"""Walls: what used to grow with a run's size until the run stopped, before (benchmarks/growth_former.py) and after.

    python benchmarks/growth_walls.py                  # tables of up to 10^8 rows: some 12 minutes, 4 GB of memory
    python benchmarks/growth_walls.py --quick          # up to 10^6 rows, under 30 s; writes nothing
    python benchmarks/growth_walls.py --only figures   # only this part again; the other parts' results stay

figures: what insight tells of tables at a checkpoint. A tenth of the rows has been trained. Between repeats other memory is
read, so that no row is in the processor's cache. initial: values with which tables begin. managed: a step of a managed table,
full before the first step, with 8,192 ids by a power law, of which a tenth is new. operators: forward and backward of history
encoders. products: of events with a vector of their sample, fp32. Seconds are processor seconds of one thread, but wall-clock
seconds of two. rate: samples/s told of a device whose queue of steps
takes 10 ms for each, while launching them takes no time. delta: 1,000 changed rows of a published delta are written, of a table
whose vocabulary holds texts; wall-clock seconds, and the keys of the vocabulary that are read. placement:
configs/kuaishou_scale.toml, whose tables have 2 TB, on 64 and 128 GPUs; the plan of a run and that of `home-dist plan` are both
made, and compared.

Medians of repeats in which before and after take turns. Bytes of an evaluation, vocabularies and hot keys are quoted in the
table from the results of the scripts that measure them.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from home_dist import process  # noqa: E402

process.prepare()

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

from benchmarks import growth_walls_measures as measures  # noqa: E402
from benchmarks.growth_walls_report import claims, picture, table  # noqa: E402
from benchmarks.machine import processor  # noqa: E402
from home_dist.process import silence_libraries  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
PARTS = ("figures", "initial", "managed", "operators", "products", "rate", "delta", "placement")


@contextmanager
def one_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="up to 10^6 rows, under 30 s; writes nothing")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of results")
    options = parser.parse_args()
    silence_libraries()
    path = options.out / "growth_walls.json"
    result: dict[str, Any] = {}
    if not options.quick and set(options.only) != set(PARTS) and path.is_file():
        result = json.loads(path.read_text())
    result |= {"processor": processor(), "cores": len(os.sched_getaffinity(0)), "torch": torch.__version__}
    with one_rank():
        for part in options.only:
            load = os.getloadavg()[0]
            result[part] = getattr(measures, part)(options.quick)
            result.setdefault("load_before", {})[part] = load
            print(f"{part}: measured", flush=True)
    text = table(result, RESULTS)
    print(text)
    if not options.quick:
        options.out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")
        (options.out / "growth_walls.md").write_text(text + "\n")
        picture(result, options.out / "growth_walls.png")
    for line in claims(result):
        print(line)


if __name__ == "__main__":
    main()
