"""Large vocabularies and hot keys: memory of fitting, look-ups a second, memory of counting one key's past.

    python benchmarks/large_keys.py                     # 10^8 text ids; 10^8 rows: an hour, and 60 GB of disk
    python benchmarks/large_keys.py --quick             # 10^6 ids and rows, under 50 s; writes nothing
    python benchmarks/large_keys.py --ids 30000000 --rows 30000000 --folder /data/tmp

Ids: texts of some 20 characters, each seen once and every tenth once more. They are fitted as `prepare fit` does, in a process
of its own, whose highest resident memory is told. Look-ups: arrays of 65,536 texts, one in eleven not in the vocabulary, by one
thread on a file in the page cache; a second is one of processor time. Private memory: of a process that only looks up. Pages of
the index are the host's, however many processes map them.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.claims import claim  # noqa: E402
from home_dist.ids.hashing import mix  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
BATCH = 1 << 16


def texts(numbers: np.ndarray) -> pa.Array:
    return pc.binary_join_element_wise("v", pa.array(mix(numbers.astype(np.uint64))).cast(pa.string()), "")


def batches(ids: int) -> Iterator[pa.Array]:
    for first in range(0, ids, BATCH):
        numbers = np.arange(first, min(ids, first + BATCH))
        yield texts(np.concatenate([numbers, numbers[::10]]))


def peak() -> int:
    """Highest resident bytes of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def private() -> int:
    """Resident bytes that this process shares with no file."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


def fit(folder: Path, ids: int, memory: int) -> dict[str, Any]:
    from home_dist.prepare.fit.draft import DraftVocabulary
    from home_dist.prepare.fit.vocabularies import write_vocabulary
    from home_dist.prepare.fitted_keys import SpilledCounts

    before, began = peak(), time.perf_counter()
    counts = SpilledCounts("text", folder / "spilled", memory)
    for batch in batches(ids):
        counts.add(batch)
    _, keys = write_vocabulary(counts, DraftVocabulary(type="text", min_count=1), folder, "t", memory)
    if keys != ids:
        raise SystemExit(f"{keys:,} ids fitted of {ids:,}")
    return {"seconds": time.perf_counter() - began, "peak_bytes": peak(), "bytes_of_process": before}


def index(folder: Path, ids: int) -> dict[str, Any]:
    from home_dist.ids.vocabulary import VocabularyFile
    from home_dist.ids.vocabulary_index import open_index

    began = time.perf_counter()
    open_index(VocabularyFile.open(folder / "vocabularies" / "t.parquet", "t", "text"))
    path = folder / "vocabularies" / "t.parquet.index"
    return {"seconds": time.perf_counter() - began, "peak_bytes": peak(), "bytes": path.stat().st_size}


def look_up(folder: Path, ids: int, in_memory: int) -> dict[str, Any]:
    """in_memory: 1 for the vocabulary held whole, as small ones are."""
    from home_dist.ids import rows
    from home_dist.ids.vocabulary import VocabularyFile

    began, before = time.perf_counter(), private()
    rows.INDEXED = 1 << 62 if in_memory else 0
    file = VocabularyFile.open(folder / "vocabularies" / "t.parquet", "t", "text")
    rows_of = rows.open_rows(file, 1, 1 + ids)
    opened, rng = time.perf_counter() - began, np.random.default_rng(0)
    asked = [rng.integers(0, ids + ids // 10, BATCH) for _ in range(max(4, min(400, 4 * ids // BATCH)))]
    seconds = used = 0.0
    for number, numbers in enumerate(asked + asked[: len(asked) // 2]):
        keys = texts(numbers)
        wall, cpu = time.perf_counter(), time.process_time()
        found = rows_of(keys)
        if number >= len(asked) // 2:  # the first ones map the file's pages
            seconds, used = seconds + time.perf_counter() - wall, used + time.process_time() - cpu
        if not np.array_equal(found > 0, numbers < ids):
            raise SystemExit("a look-up found other ids than are in the vocabulary")
    count = BATCH * len(asked)
    return {
        "seconds_to_open": opened,
        "a_second": count / seconds,
        "a_second_of_processor_time": count / used,
        "private_bytes": private() - before,
    }


def child(folder: Path, what: str, *numbers: object) -> dict[str, Any]:
    command = [sys.executable, __file__, "--folder", str(folder), "--child", what, *map(str, numbers)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    told = json.loads(ended.stdout.splitlines()[-1])
    print(f"{what} {numbers}: {told}", file=sys.stderr)
    return told


def vocabularies(work: Path, ids: int, memory: int, held: int) -> dict[str, Any]:
    """held: most ids for which the vocabulary held whole is measured too."""
    told = {"ids": ids, "memory": memory, "fit": child(work, "fit", ids, memory), "index": child(work, "index", ids)}
    told["look_up"] = child(work, "look_up", ids, 0)
    if ids <= held:
        told["look_up_in_memory"] = child(work, "look_up", ids, 1)
    return told


def claims(result: dict[str, Any]) -> list[str]:
    lines = []
    if "vocabularies" in result:
        told = max(result["vocabularies"], key=lambda t: t["ids"])
        pace, size = told["look_up"]["a_second_of_processor_time"], f"{told['ids']:.0e}".replace("e+0", "e")
        lines.append(claim("lookups a second and core", pace, 2e6, form=".3g"))
        most = max(told[n]["peak_bytes"] for n in ("fit", "index")) / 1e9
        lines.append(claim(f"peak memory of fitting {size} text ids, GB", most, 2, at_most=True))
    return lines


def machine() -> dict[str, Any]:
    model = Path("/proc/cpuinfo").read_text().partition("model name")[2].partition(":")[2].split("\n")[0].strip()
    return {"processor": model, "cores": len(os.sched_getaffinity(0)), "arrow": pa.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--ids", type=int, nargs="*", default=[1_000_000, 10_000_000, 100_000_000])
    parser.add_argument("--memory", type=float, default=1.0, help="GB of the budget")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="for what is made")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        pa.set_cpu_count(1)
        what, *numbers = chosen.child
        print(json.dumps({"fit": fit, "index": index, "look_up": look_up}[what](chosen.folder, *map(int, numbers))))
        return
    memory, path = int(chosen.memory * 1e9), RESULTS / "large_keys.json"
    result: dict[str, Any] = {} if chosen.quick or not path.is_file() else json.loads(path.read_text())
    for ids in [1_000_000] if chosen.quick else chosen.ids:
        with tempfile.TemporaryDirectory(dir=chosen.folder) as work:
            told = vocabularies(Path(work), ids, memory, 10_000_000)
        result["vocabularies"] = [*(t for t in result.get("vocabularies", []) if t["ids"] != ids), told]
    result |= machine()
    if not chosen.quick:
        RESULTS.mkdir(exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")
    print("\n".join(claims(result)))


if __name__ == "__main__":
    main()
