"""Large vocabularies and hot keys: memory of fitting, look-ups a second, memory of counting one key's past.

    python benchmarks/large_keys.py                     # 10^8 text ids; 10^8 rows: an hour, and 60 GB of disk
    python benchmarks/large_keys.py --quick             # 10^6 ids and rows, under 50 s; writes nothing
    python benchmarks/large_keys.py --ids 30000000 --rows 30000000 --folder /data/tmp

Ids: texts of some 20 characters, each seen once and every tenth once more. They are fitted as `prepare fit` does, in a process
of its own, whose highest resident memory is told. Look-ups: arrays of 65,536 texts, one in eleven not in the vocabulary, by one
thread on a file in the page cache; a second is one of processor time. Private memory: of a process that only looks up. Pages of
the index are the host's, however many processes map them.

A hot key: what `prepare` counts for the partition of a key that is in a tenth of a log's rows, over all times, a week, and
three days up to the morning; in a process of its own, in pieces and, as it was before, in one piece. Only the rows of that
partition are made, as the scan of the log would leave them; the other partitions are as without such a key.
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
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.claims import claim  # noqa: E402
from benchmarks.machine import processor, write_result  # noqa: E402
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


DESCRIPTION = """
log = "log/*.parquet"
user = "user_id"
time = "time_ms"
split = { train_days = 10, validation_days = 2, test_days = 2 }
label = [{ name = "like", group = "interaction", column = "is_like" }, { name = "view", group = "watch", column = "is_view" }]
id = [{ column = "user_id" }, { column = "video_id" }]
past = [
  { by = ["video_id"], rates = ["like", "view"] },
  { by = ["video_id"], name = "week", rates = ["like", "view"], days = 7 },
  { by = ["video_id"], name = "morning", rates = ["like"], days = 3, until = "morning" },
]
"""
DAY_MS, FIRST_DAY, DAYS, CHUNK = 86_400_000, 19_675, 14, 1_000_000


def plan_of(folder: Path, rows: int, memory: int) -> Any:
    """The plan of a preparation of so many rows with one process."""
    from home_dist.prepare.generic.log_plan import Plan
    from home_dist.prepare.generic.log_spec import load_spec
    from home_dist.prepare.generic.sizes import partitions, piece_rows

    (folder / "log.toml").write_text(DESCRIPTION)
    spec = load_spec(folder / "log.toml")
    types = dict.fromkeys(("user_id", "video_id", "time_ms", "is_like", "is_view"), pa.int64())
    parts = min(4096, partitions(spec, types, rows, memory, 1))
    return Plan(spec, types, types, (), parts, piece_rows=piece_rows(spec, memory))


def spill(folder: Path, hot: int, rows: int, memory: int) -> dict[str, Any]:
    """What the scan of a log of `rows` rows, in order of time, leaves for the partition of a key in `hot` of them: this key's
    rows, and the partition's share of the others, of 20 rows a key."""
    from home_dist.prepare.engine.spill import write_parts

    plan, rng = plan_of(folder, rows, memory), np.random.default_rng(0)
    others = (rows - hot) // plan.parts
    chunks = -(-rows // CHUNK)
    for chunk in range(chunks):
        count = hot * (chunk + 1) // chunks - hot * chunk // chunks
        more = others * (chunk + 1) // chunks - others * chunk // chunks
        key = rng.permutation(np.concatenate([np.zeros(count, np.int64), 1 + rng.integers(0, max(1, others // 20), more)]))
        time_ms = np.sort(rng.integers(0, DAYS * DAY_MS // chunks, len(key))) + DAYS * DAY_MS * chunk // chunks
        columns = {
            "row": np.arange(len(key)) * max(1, CHUNK // len(key)) + chunk * CHUNK,
            "part": rng.integers(0, plan.parts, len(key)).astype(np.int32),
            "time": FIRST_DAY * DAY_MS + time_ms,
            "key_0": key,
        }
        columns |= {n: rng.integers(0, 2, len(key)).astype(np.int8) for n in ("happened_like", "happened_view")}
        columns |= {n: np.ones(len(key), np.int8) for n in ("known_like", "known_view")}
        part = np.zeros(len(key), np.int64)
        write_parts(folder / f"spilled-{chunk:05d}.arrow", pa.table(columns), part, plan.parts)
    return {"partitions": plan.parts, "piece_rows": plan.piece_rows, "rows_of_partition": hot + others}


def count(folder: Path, rows: int, memory: int, in_pieces: int) -> dict[str, Any]:
    """in_pieces: 0 for the whole partition in one piece, as before."""
    from home_dist.prepare.generic.past import back_files, count_keyed

    plan, before = plan_of(folder, rows, memory), peak()
    plan = plan if in_pieces else replace(plan, piece_rows=1 << 62)
    out, began = folder / f"counted-{in_pieces}", time.perf_counter()
    out.mkdir()
    count_keyed(plan, 0, 0, sorted(folder.glob("spilled-*")), (), (FIRST_DAY + DAYS) * DAY_MS, out)
    seconds, most, sums, told = time.perf_counter() - began, peak(), dict[str, int](), 0
    for file in back_files(out):
        with pa.OSFile(str(file)) as source:
            for batch in (lambda f: (f.get_batch(n) for n in range(f.num_record_batches)))(pa.ipc.open_file(source)):
                told += len(batch)
                row = mix(batch.column("row").to_numpy().astype(np.uint64))
                for name in batch.schema.names:
                    with np.errstate(over="ignore"):
                        value = int((row * batch.column(name).to_numpy().astype(np.uint64)).sum())
                    sums[name] = (sums.get(name, 0) + value) % 2**64
    return {"seconds": seconds, "peak_bytes": most, "bytes_of_process": before, "rows": told, "digest": str(sums)}


def hot_key(work: Path, rows: int, memory: int) -> dict[str, Any]:
    told = {"rows": rows, "memory": memory, **child(work, "spill", rows // 10, rows, memory)}
    told["pieces"] = child(work, "count", rows, memory, 1)
    told["one_piece"] = child(work, "count", rows, memory, 0)
    if told["pieces"].pop("digest") != told["one_piece"].pop("digest"):
        raise SystemExit("counted in pieces, the past is another")
    return told


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
    if "hot_keys" in result:
        told = max(result["hot_keys"], key=lambda t: t["rows"])
        share, size = told["pieces"]["peak_bytes"] / told["memory"], f"{told['rows']:.0e}".replace("e+0", "e")
        name = f"peak memory of {size} rows with a key in a tenth of them over the budget"
        lines.append(claim(f"{name}, in the key's partition", share, 1, at_most=True))
    return lines


def machine() -> dict[str, Any]:
    return {"processor": processor(), "cores": len(os.sched_getaffinity(0)), "arrow": pa.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--ids", type=int, nargs="*", default=[1_000_000, 10_000_000, 100_000_000])
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000_000, 30_000_000, 100_000_000])
    parser.add_argument("--memory", type=float, default=1.0, help="GB of the budget")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="for what is made")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        pa.set_cpu_count(1)
        what, *numbers = chosen.child
        print(
            json.dumps(
                {"fit": fit, "index": index, "look_up": look_up, "spill": spill, "count": count}[what](
                    chosen.folder, *map(int, numbers)
                )
            )
        )
        return
    memory, path = int(chosen.memory * 1e9), RESULTS / "large_keys.json"
    ids_told, rows_told = list[dict[str, Any]](), list[dict[str, Any]]()
    for ids in [1_000_000] if chosen.quick else chosen.ids:
        with tempfile.TemporaryDirectory(dir=chosen.folder) as work:
            ids_told.append(vocabularies(Path(work), ids, memory, 10_000_000))
    for rows in [4_000_000] if chosen.quick else chosen.rows:
        with tempfile.TemporaryDirectory(dir=chosen.folder) as work:
            budget = 400_000_000 if chosen.quick else memory
            rows_told.append(hot_key(Path(work), rows, budget))
    result: dict[str, Any] = {} if chosen.quick or not path.is_file() else json.loads(path.read_text())
    for name, key, told in (("vocabularies", "ids", ids_told), ("hot_keys", "rows", rows_told)):
        kept = {t[key]: t for t in [*result.get(name, []), *told]}  # earlier runs of other sizes stay
        result |= {name: [kept[size] for size in sorted(kept)]} if kept else {}
    result |= machine()
    if not chosen.quick:
        write_result(path, result)
    print("\n".join(claims(result)))


if __name__ == "__main__":
    main()
