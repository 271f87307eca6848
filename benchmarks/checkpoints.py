"""What a checkpoint costs: how long training waits for one, how fast it is written, how long loading and resharding take.

    python benchmarks/checkpoints.py            # 1 GB of tables and their optimizers' state on 2 ranks: some minutes
    python benchmarks/checkpoints.py --quick    # a tenth of it, under 50 s; writes nothing

Stall: the time for which `Saver.save` keeps the training thread, the copy of all tensors, over the time of the same save
without a thread. Steps: how much slower the steps are that run while a checkpoint is written; on a CPU, training and writing
share cores. Bytes/s: from the copy to the renamed folder, with every file fsynced, read again for its SHA-256 and named in the
manifest, against plain writes of the same number of bytes by the same ranks at once, each fsynced. Hashing: each rank its own
files at once, against one rank all of them. Load: verification against the manifest and filling model and optimizers, on 2
ranks as saved, and on 1 rank under another plan.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from home_dist.process import prepare

prepare()

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import torch.multiprocessing as mp  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.claims import claim  # noqa: E402
from benchmarks.machine import write_result  # noqa: E402
from home_dist import process  # noqa: E402
from home_dist.config import CheckpointSection, RunConfig  # noqa: E402
from home_dist.data.batch import Batch  # noqa: E402
from home_dist.data.inputs import Inputs, open_inputs  # noqa: E402
from home_dist.distributed.ranks import Ranks  # noqa: E402
from home_dist.schema import Schema, save_schema  # noqa: E402
from home_dist.training.build import Built, build  # noqa: E402
from home_dist.training.checkpoint.folder import Checkpoints  # noqa: E402
from home_dist.training.checkpoint.loading import load  # noqa: E402
from home_dist.training.checkpoint.manifest import entry  # noqa: E402
from home_dist.training.checkpoint.saver import Saver  # noqa: E402
from home_dist.training.checkpoint.state import TrainState  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
RANKS, DIM, BATCH = 2, 64, 1024
TABLES = ("user", "video", "author")


def write_data(folder: Path, rows: int, samples: int = BATCH * RANKS * 8) -> Schema:
    """Random ids of three tables, one label."""
    schema = Schema.model_validate(
        {
            "table": [{"name": t, "rows": rows} for t in TABLES],
            "feature": [{"kind": "id", "name": t, "column": t, "table": t} for t in TABLES],
            "task": [{"name": "like", "group": "interaction", "column": "like"}],
        }
    )
    random = np.random.default_rng(0)
    columns = {t: random.integers(0, rows, samples).astype(np.int32) for t in TABLES}
    (folder / "train").mkdir(parents=True)
    table = pa.table(columns | {"like": random.integers(0, 2, samples).astype(np.int8)})
    pq.write_table(table, folder / "train" / "part-0.parquet", row_group_size=BATCH)
    save_schema(schema, folder / "schema.toml")
    return schema


def formed(folder: str, rank: int, world: int) -> Ranks:
    process.silence_libraries()
    torch.set_num_threads(1)
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "LOCAL_WORLD_SIZE": str(world)}
    store = dist.FileStore(f"{folder}/store-{world}", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=300))
    return Ranks(rank, world, rank, world, torch.device("cpu"), "gloo", 1)


def built(folder: str, schema: Schema, ranks: Ranks, sharding: str) -> tuple[Inputs, Built]:
    tables = {t: {"sharding": sharding} for t in TABLES}
    config = RunConfig.model_validate(
        {
            "run": {"dir": f"{folder}/run"},
            "data": {"path": f"{folder}/data", "validation": "", "test": ""},
            "embedding": {"dim": DIM, "tables": tables},
            "model": {"kind": "shared_bottom"},
            "train": {"batch_size": BATCH},
        }
    )
    inputs = open_inputs(config, schema)
    return inputs, build(inputs, ranks)


def batches(inputs: Inputs, ranks: Ranks) -> Iterator[Batch]:
    while True:
        yield from list(inputs.training_reader(ranks).epoch(0))


def seconds(action: Callable[[], object]) -> float:
    dist.barrier()
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _save(rank: int, folder: str, schema: Schema, repeats: int) -> None:
    ranks = formed(folder, rank, RANKS)
    inputs, made = built(folder, schema, ranks, "row_wise")
    source = batches(inputs, ranks)
    position = inputs.training_reader(ranks).position(0, 1)

    def step() -> None:
        made.optimizer.zero_grad()
        loss, _ = made.model(next(source))
        loss.backward()
        made.optimizer.step()

    for _ in range(3):
        step()
    checkpoints = Checkpoints(Path(folder, "checkpoints"), CheckpointSection(keep_last=1))
    background, plain = Saver(checkpoints, {}, True), Saver(checkpoints, {}, False)
    found: dict[str, list[float]] = {n: [] for n in ("stall", "whole", "inline", "step", "step_while_writing", "plain_write")}
    number = 0

    def save(saver: Saver) -> None:
        nonlocal number
        number += 1
        saver.save(made.model, made.optimizer, TrainState(number, 0, False, position, RANKS))

    save(background)  # the first one allocates the memory of the copy
    background.wait()
    for _ in range(repeats):
        found["step"] += [seconds(step) for _ in range(10)]
        found["inline"].append(seconds(lambda: save(plain)))
        found["stall"].append(seconds(lambda: save(background)))
        while background.writing:
            began = time.perf_counter()
            step()
            found["step_while_writing"].append(time.perf_counter() - began)
        background.wait()
        found["whole"].append(background.seconds[-1])
        own = sum(p.stat().st_size for p in checkpoints.newest().glob(f"__{rank}_*"))
        found["plain_write"].append(seconds(lambda own=own: _write(Path(folder, f"plain-{rank}"), own)))
    for name, pattern in (("hash_own", f"__{rank}_*"), ("hash_all", "__*" if rank == 0 else "nothing")):
        files = sorted(checkpoints.newest().glob(pattern))
        found[name] = [seconds(lambda files=files: [entry(p) for p in files]) for _ in range(repeats)]
    size = sum(p.stat().st_size for p in checkpoints.newest().iterdir())
    found["load"] = [seconds(lambda: load(checkpoints.newest(), made.model, made.optimizer)) for _ in range(repeats)]
    everyone: list[dict[str, list[float]]] = [{}] * RANKS
    dist.all_gather_object(everyone, found)
    if rank == 0:
        # A save is as slow as its slowest rank.
        slowest = {n: [max(v) for v in zip(*(e[n] for e in everyone), strict=False)] for n in found}
        Path(folder, "saved.json").write_text(json.dumps({"bytes": size, **slowest}))
    dist.barrier()
    dist.destroy_process_group()


def _write(path: Path, size: int) -> None:
    block = np.random.default_rng(0).bytes(2**24)
    with path.open("wb") as file:
        for first in range(0, size, len(block)):
            file.write(block[: size - first])
        file.flush()
        os.fsync(file.fileno())
    path.unlink()


def _reshard(rank: int, folder: str, schema: Schema, repeats: int) -> None:
    ranks = formed(folder, rank, 1)
    _, made = built(folder, schema, ranks, "table_wise")
    newest = Checkpoints(Path(folder, "checkpoints"), CheckpointSection()).newest()
    if newest is None:
        raise RuntimeError("nothing was saved")
    found = [seconds(lambda: load(newest, made.model, made.optimizer)) for _ in range(repeats)]
    Path(folder, "resharded.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def measure(rows: int, repeats: int, scratch: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        schema = write_data(Path(folder, "data"), rows)
        mp.spawn(_save, args=(folder, schema, repeats), nprocs=RANKS)
        mp.spawn(_reshard, args=(folder, schema, repeats), nprocs=1)
        saved = json.loads(Path(folder, "saved.json").read_text())
        return saved | {"reshard": json.loads(Path(folder, "resharded.json").read_text())}


def table(result: dict[str, Any]) -> str:
    size, middle = result["bytes"], {k: statistics.median(v) for k, v in result.items() if isinstance(v, list) and v}
    lines = [
        f"{size / 1e6:,.0f} MB on {RANKS} ranks, {result['cores']} cores; medians of {result['repeats']}",
        "",
        "| | seconds | MB/s |",
        "|---|---|---|",
    ]
    for title, name in (
        ("training waits for a save in the background", "stall"),
        ("a save in the background, until it is renamed", "whole"),
        ("a save that training waits for", "inline"),
        ("plain writes of the same bytes, fsynced", "plain_write"),
        ("hashing for the manifest, each rank its own files", "hash_own"),
        ("hashing for the manifest, were it one rank's work", "hash_all"),
        ("verify and load, 2 ranks row-wise to the same", "load"),
        ("verify and load, 2 ranks row-wise to 1 rank table-wise", "reshard"),
    ):
        lines.append(f"| {title} | {middle[name]:.3f} | {size / 1e6 / middle[name]:,.0f} |")
    slower = middle.get("step_while_writing", float("nan")) / middle["step"]
    lines += ["", f"a step takes {middle['step'] * 1e3:.0f} ms, {slower:.1f} times as long while a checkpoint is written"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to be measured")
    chosen = parser.parse_args()
    rows, repeats = (50_000, 2) if chosen.quick else (1_250_000, 5)
    result = measure(rows, repeats, chosen.folder)
    result |= {"quick": chosen.quick, "cores": len(os.sched_getaffinity(0)), "torch": torch.__version__, "repeats": repeats}
    text = table(result)
    print(text)
    middle = {k: statistics.median(v) for k, v in result.items() if isinstance(v, list) and v}
    print(claim("stall of a save over that of one without a thread", middle["stall"] / middle["inline"], 0.2, at_most=True))
    print(claim("bytes/s of a save over those of plain writes", middle["plain_write"] / middle["inline"], 0.5))
    print(claim("hashing by 2 ranks, speed over one rank", middle["hash_all"] / middle["hash_own"], 1.6))
    print(claim("load and reshard over a load as saved", middle["reshard"] / middle["load"], 3, at_most=True))
    if not chosen.quick:
        write_result(RESULTS / "checkpoints.json", result)
        (RESULTS / "checkpoints.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
