"""One rank of 64 on this machine: the fullest rank of configs/kuaishou_scale.toml (2 TB of tables, 60 tasks).

    python benchmarks/rehearsal.py            # some minutes; takes what memory is free
    python benchmarks/rehearsal.py --quick    # smaller tables and a smaller batch, under 50 s; writes nothing

The plan is that of 64xH100-80GB, of the real sizes. Then tables are cut to what this machine's memory allows, each by the same
factor, and the rank trains: the real model, batch, ids and histories, read from Parquet; the real look-ups, fused updates and
exchange, through a process group that answers with the sizes that 63 others would send (rehearsal_group.py). A sum over ranks
is this rank's alone, and no time goes into links. Told: the step by part, memory against `home-dist plan`, the copy, writing
and hashing of this rank's part of a checkpoint, reading it back, and starting.
"""

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any, TypeVar

from home_dist.process import prepare

prepare()

import numpy as np  # noqa: E402
import psutil  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from torch.distributed.checkpoint.default_planner import create_default_global_save_plan  # noqa: E402
from torchrec.distributed.sharding_plan import column_wise, construct_module_sharding_plan, row_wise, table_wise  # noqa: E402
from torchrec.distributed.types import ShardingPlan  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import rehearsal_group  # noqa: E402
from benchmarks.claims import claim  # noqa: E402
from benchmarks.id_log import power_law  # noqa: E402
from benchmarks.machine import processor, vectors, write_result  # noqa: E402
from home_dist.config import RunConfig, load_config  # noqa: E402
from home_dist.data.batch import Batch  # noqa: E402
from home_dist.data.inputs import Inputs, open_inputs  # noqa: E402
from home_dist.distributed.ranks import Ranks  # noqa: E402
from home_dist.embeddings.collections import table_shards  # noqa: E402
from home_dist.embeddings.sharding import sharders  # noqa: E402
from home_dist.insight.table_figures import table_figures  # noqa: E402
from home_dist.network import Network  # noqa: E402
from home_dist.planning import plan as planning  # noqa: E402
from home_dist.planning.estimate import estimate  # noqa: E402
from home_dist.planning.host import host_work  # noqa: E402
from home_dist.planning.placement import model_without_memory, placed_tables  # noqa: E402
from home_dist.planning.probe import probe  # noqa: E402
from home_dist.planning.topology import machines  # noqa: E402
from home_dist.planning.traffic import Placed  # noqa: E402
from home_dist.schema import Schema, load_schema, save_schema  # noqa: E402
from home_dist.schema.spec import IdFeature, StatisticFeature  # noqa: E402
from home_dist.training import build as building  # noqa: E402
from home_dist.training.checkpoint import pieces as checkpoint_pieces  # noqa: E402
from home_dist.training.checkpoint.contents import optimizer_pieces, weight_pieces  # noqa: E402
from home_dist.training.checkpoint.manifest import entry  # noqa: E402
from home_dist.training.optimizers import Schedule  # noqa: E402
from home_dist.training.pipeline import Pipeline, begin_step  # noqa: E402
from home_dist.training.profiling import Trace  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
Result = TypeVar("Result")
Ids = NDArray[np.int32]
CONFIG, RANKS, TOPOLOGY = ROOT / "configs" / "kuaishou_scale.toml", 64, "64xH100-80GB"
EVENTS = {"watched": 100}


def cut(schema: Schema, factor: int, replicated: int) -> Schema:
    """Sharded tables by the factor; none becomes so small that it would be replicated."""
    tables = tuple(
        t if t.rows <= replicated else t.model_copy(update={"rows": max(replicated + RANKS, t.rows // factor)})
        for t in schema.table
    )
    return schema.model_copy(update={"table": tables})


def write_log(folder: Path, schema: Schema, rows: int, lengths: dict[str, float]) -> None:
    """A log of all the schema's columns, with ids as a hash makes rows of them. Were rows in order of frequency, as in a
    vocabulary, the first rank would be asked for most of them."""
    random, sizes = np.random.default_rng(0), {t.name: t.rows for t in schema.table}
    columns: dict[str, Any] = {"user_key": random.integers(0, rows, rows)}

    def hashed(bound: int, count: int) -> Ids:
        """Few ids make up most, and lie anywhere in the table."""
        return (power_law(random, bound, count).astype(np.int64) * 2_654_435_761 % bound).astype(np.int32)

    def listed(table: str, mean: float) -> pa.Array:
        counts = random.poisson(mean, rows)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        return pa.ListArray.from_arrays(offsets, hashed(sizes[table], int(offsets[-1])))

    for feature in schema.feature:
        if isinstance(feature, IdFeature):
            single = feature.pooling == "none"
            ids = (
                power_law(random, sizes[feature.table], rows)
                if single
                else listed(feature.table, lengths.get(feature.column, 5))
            )
            columns[feature.column] = ids
        elif isinstance(feature, StatisticFeature):
            columns[feature.column] = random.normal(size=rows).astype(np.float32)
        else:
            raise SystemExit(f"rehearsal: no column is made for a feature of kind {feature.kind}")
    for sequence in schema.sequence:
        counts = random.poisson(EVENTS.get(sequence.name, 50), rows)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        for event in sequence.events:
            columns[event.column] = pa.ListArray.from_arrays(offsets, hashed(sizes[event.table], int(offsets[-1])))
    for task in schema.task:
        columns[task.column] = (random.random(rows) < 0.1).astype(np.int8)
    if schema.group_column and schema.group_column not in columns:
        columns[schema.group_column] = columns["user_key"]
    (folder / "train").mkdir(parents=True)
    pq.write_table(pa.table(columns), folder / "train" / "part-0.parquet", row_group_size=max(64, rows // 8))
    save_schema(schema, folder / "schema.toml")


def placed_as(placed: list[Placed], network: Network, config: RunConfig) -> ShardingPlan:
    """The plan of the real sizes, for tables that are cut."""
    kinds = {p.table: p for p in placed}

    def generator(table: str) -> Any:
        found = kinds[table]
        if found.sharding == "table_wise":
            return table_wise(rank=found.shards[0].rank)
        if found.sharding == "column_wise":
            return column_wise(ranks=[s.rank for s in found.shards])
        if found.sharding == "row_wise":
            return row_wise()
        raise SystemExit(f"rehearsal: {table} is placed {found.sharding}, which is not rehearsed")

    bags, one_by_one, _ = sharders(config.embedding, config.train.seed)
    plan = {}
    for name, sharder in (("bags", bags), ("events", one_by_one)):
        module = getattr(network, name)
        if module is not None:
            tables = [c.name for c in (module.embedding_bag_configs() if name == "bags" else module.embedding_configs())]
            generators = {t: generator(t) for t in tables}
            plan[name] = construct_module_sharding_plan(
                module, generators, sharder=sharder, local_size=8, world_size=RANKS, device_type="cpu"
            )
    return ShardingPlan(plan)


class _OwnPart(checkpoint_pieces._Writing):
    """Writes this rank's pieces, although the others' are missing."""

    def create_global_plan(self, all_plans: Any) -> Any:
        return create_default_global_save_plan(all_plans[:1])


def endless(inputs: Inputs, ranks: Ranks) -> Iterator[Batch]:
    reader = inputs.training_reader(replace(ranks, rank=0, world_size=1))
    return chain.from_iterable(reader.epoch(n) for n, _ in enumerate(repeat(0)))


def rehearse(scratch: Path, factor: int, batch: int, steps: int) -> dict[str, Any]:
    """batch: of the rehearsal; the plan is that of the configuration's."""
    planned = planning.plan(load_config(CONFIG), machines(TOPOLOGY), EVENTS)
    fullest = int(sum(planned.estimate.memory.values()).argmax())
    if fullest:
        raise SystemExit(f"rehearsal: rank {fullest} is the fullest, and the first one is rehearsed")
    real = load_config(CONFIG)
    schema = cut(load_schema(real.schema_path()), factor, real.embedding.replicate_rows)
    write_log(scratch / "log", schema, 4 * batch, planned.lengths.by_key)
    own = [f"data.path={scratch}/log", "data.validation=", "data.test=", f"run.dir={scratch}/run", "kernel.precision=fp32"]
    config = load_config(CONFIG, [*own, f"train.batch_size={batch}"])
    inputs = open_inputs(config, schema, ("train",))
    rehearsal_group.form(RANKS)
    ranks = Ranks(0, RANKS, 0, 8, torch.device("cpu"), rehearsal_group.NAME, torch.get_num_threads())
    before = resident()
    building._placed = lambda network, *_: placed_as(planned.placed, network, config)  # type: ignore[assignment]
    starting, built = timed(lambda: building.build(inputs, ranks))
    loading, again = timed(lambda: building.build(inputs, ranks, loaded=True))
    del again
    tables = sum(s.values.numel() * s.values.element_size() for s in table_shards(built.model))
    pipeline, schedule = Pipeline.of(built, ranks, 1), Schedule(built.optimizer, config.train, steps + 4)
    batches, done = endless(inputs, ranks), 0
    built.model.train()

    def step() -> None:
        nonlocal done
        begin_step(built, schedule, config.train, done, 0)
        pipeline.progress(batches)
        done += 1

    for _ in range(2):
        step()
    group: Any = torch.distributed.group.WORLD
    handed = group.handed
    times = [timed(step)[0] for _ in range(steps)]
    handed = (group.handed - handed) / steps
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    trace = Trace(built.model, scratch / "trace.json.gz", ranks)
    with trace.step():
        step()
    parts = {name: milliseconds / 1e3 for name, milliseconds in trace.end().parts.items()}
    pipeline.detach()
    figures_of, _ = timed(lambda: table_figures(built.model, config.embedding.init_std, config.train.seed))
    placed = placed_tables(built.plan, inputs.layout, RANKS)
    kind = replace(machines(f"{RANKS}xCPU-32GB"), hosts=8)
    dense = probe(model_without_memory(schema, inputs.layout, config), inputs.layout, planned.lengths.by_key)
    host = host_work(config, inputs.layout, len(schema.task), planned.lengths.by_key, kind.device, dense)
    expected = estimate(placed, config, kind, dense, planned.lengths.by_key, host)
    given = expected.traffic.handed
    planned_handed = sum(float(given[use][0]) for use in ("ids", "embeddings", "their gradients")) + dense.statistics * 4
    return {
        "ranks": RANKS,
        "batch": batch,
        "factor": factor,
        "real_bytes": {name: float(values[0]) for name, values in planned.estimate.memory.items()},
        "planned_bytes": {name: float(values[0]) for name, values in expected.memory.items()},
        "tables_bytes": tables,
        "peak_bytes": peak - before,
        "handed_bytes": handed,
        "planned_handed_bytes": planned_handed,
        "step_seconds": times,
        "parts": parts,
        "start_seconds": starting,
        "start_seconds_where_a_checkpoint_follows": loading,
        "table_figures_seconds": figures_of,
        "checkpoint": checkpoint(scratch / "checkpoint", built),
        "machine": {"processor": processor() + vectors(), "cores": len(os.sched_getaffinity(0)), "torch": torch.__version__},
    }


def checkpoint(place: Path, built: building.Built) -> dict[str, Any]:
    """This rank's part of a checkpoint: copied, written, hashed, and read back into the model."""
    own = [*weight_pieces(built.model), *optimizer_pieces(built.model, built.optimizer)]
    copying, copies = timed(lambda: [replace(p, values=p.values.detach().clone()) for p in own])
    writer = torch.distributed.checkpoint.FileSystemWriter(place, sync_files=True)
    save = torch.distributed.checkpoint.save
    writing, _ = timed(lambda: save({}, storage_writer=writer, planner=_OwnPart(copies), no_dist=True))
    hashing, _ = timed(lambda: [entry(p) for p in sorted(place.glob("__0_*"))])
    for piece in own:
        piece.values.detach().zero_()
    reading, _ = timed(lambda: checkpoint_pieces.Stored(place).read(own))
    same = all(torch.equal(a.values, b.values) for a, b in zip(own, copies, strict=True))
    return {
        "bytes": sum(p.bytes for p in copies),
        "copy_seconds": copying,
        "write_seconds": writing,
        "hash_seconds": hashing,
        "read_seconds": reading,
        "read_back_equal": same,
    }


def timed(function: Callable[[], Result]) -> tuple[float, Result]:
    began = time.perf_counter()
    found = function()
    return time.perf_counter() - began, found


def resident() -> int:
    return psutil.Process().memory_info().rss


def table(found: dict[str, Any]) -> str:
    saved, machine = found["checkpoint"], found["machine"]
    step = statistics.median(found["step_seconds"])
    lines = [
        f"The first of {RANKS} ranks of configs/kuaishou_scale.toml, tables cut to 1/{found['factor']}, "
        f"batch {found['batch']:,}; "
        f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']}.",
        "",
        "| GB of the rank | real, planned | rehearsed, planned | rehearsed, measured |",
        "|---|---|---|---|",
    ]
    measured = {"tables": found["tables_bytes"]}
    for name, size in found["planned_bytes"].items():
        seen = f"{measured[name] / 1e9:.3f}" if name in measured else ""
        lines.append(f"| {name} | {found['real_bytes'][name] / 1e9:.2f} | {size / 1e9:.3f} | {seen} |")
    sums = [sum(found[k].values()) / 1e9 for k in ("real_bytes", "planned_bytes")]
    lines.append(f"| all | {sums[0]:.2f} | {sums[1]:.3f} | {found['peak_bytes'] / 1e9:.3f} (peak) |")
    lines += ["", f"A step takes {step:.2f} s, of which:", "", "| part | s |", "|---|---|"]
    lines += [f"| {name} | {seconds:.3f} |" for name, seconds in found["parts"].items() if seconds]
    lines += [
        "",
        "| beside the step | s |",
        "|---|---|",
        f"| start, without reading: plan, shards, initial values | {found['start_seconds']:.2f} |",
        f"| the same where a checkpoint follows | {found['start_seconds_where_a_checkpoint_follows']:.2f} |",
        f"| insight's figures of tables at a checkpoint | {found['table_figures_seconds']:.3f} |",
        f"| checkpoint of {saved['bytes'] / 1e9:.2f} GB: copy, for which training waits | {saved['copy_seconds']:.2f} |",
        f"| write, fsynced | {saved['write_seconds']:.2f} |",
        f"| hash | {saved['hash_seconds']:.2f} |",
        f"| read back | {saved['read_seconds']:.2f} |",
        "",
        f"Handed to collectives in a step: {found['handed_bytes'] / 1e6:,.1f} MB, "
        f"planned {found['planned_handed_bytes'] / 1e6:,.1f}.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller tables and a smaller batch, under 50 s; writes nothing")
    options = parser.parse_args()
    os.chdir(ROOT)
    factor, batch, steps = (512, 32, 2) if options.quick else (affordable(), 1024, 5)
    with tempfile.TemporaryDirectory() as scratch:
        found = rehearse(Path(scratch), factor, batch, steps)
    print(table(found))
    if not options.quick:
        write_result(RESULTS / "rehearsal.json", found)
        (RESULTS / "rehearsal.md").write_text(table(found) + "\n")
    held = found["tables_bytes"] / found["planned_bytes"]["tables"]
    print(claim("tables held by one rank of 64 over planned", held, 1.001, at_most=True, form=".4f"))
    peak = found["peak_bytes"] / sum(found["planned_bytes"].values())
    print(claim("peak memory of one rank of 64 over planned", peak, 1.1, at_most=True))
    handed = found["handed_bytes"] / found["planned_handed_bytes"]
    print(claim("bytes handed to collectives over planned", handed, 1.1, at_most=True))
    print(claim("the rank's part of a checkpoint reads back equal", float(found["checkpoint"]["read_back_equal"]), 1.0))


def affordable() -> int:
    """The factor by which tables are cut: so that they, their copy for a checkpoint and the step fit."""
    factor, free = 1, psutil.virtual_memory().available
    while 50e9 / factor > 0.25 * free:
        factor *= 2
    return factor


if __name__ == "__main__":
    main()
