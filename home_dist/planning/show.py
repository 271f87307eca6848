"""A plan as text and tables for the terminal."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from home_dist.config import RunConfig
from home_dist.config.publish import PublishSection
from home_dist.planning.checkpoints import CheckpointCost, Speeds
from home_dist.planning.estimate import ASSUMED, HEAD_ROOM, Estimate
from home_dist.planning.host import MEASURED_VALUES
from home_dist.planning.lengths import Lengths
from home_dist.planning.probe import DenseCost
from home_dist.planning.topology import Machines
from home_dist.planning.traffic import USES, Placed
from home_dist.planning.versions import VersionCost

_MOST = 40  # most tables listed


def parts(
    machines: Machines, placed: Sequence[Placed], dense: DenseCost, estimated: Estimate, lengths: Lengths, config: RunConfig
) -> Iterator[str | Table]:
    total = sum(p.rows * p.dim * p.weight_bytes for p in placed)
    yield (
        f"{machines.count} x {machines.name} on {machines.hosts} hosts | {len(placed)} sharded tables, {total / 1e9:,.1f} GB | "
        f"{dense.parameters / 1e6:,.1f} M dense parameters, {dense.flops / 1e6:,.1f} MFLOP per sample forward | "
        f"batch {config.train.batch_size:,} per rank, {config.train.batch_size * machines.count:,} in all"
    )
    yield plan_table(placed)
    yield memory_table(machines, estimated)
    yield traffic_table(machines, estimated)
    yield time_table(estimated)
    yield bounds_table(estimated)
    yield (
        f"step: at least {estimated.step * 1e3:,.2f} ms, at most {estimated.samples_per_second:,.0f} samples/s; "
        f"what bounds it: {estimated.bound}\n"
        f"imbalance (largest over mean): memory of tables {_imbalance(estimated.memory['tables']):.2f}, rows read "
        f"{_imbalance(estimated.looked_up):.2f}"
    )
    reached = ", ".join(f"{share:.0%} of the speed of {name}" for name, share in ASSUMED.items())
    yield f"assumed: {reached}; exchange of ids goes on beside the step before"
    host = estimated.host
    yield (
        f"assumed of the host: {host.launch_seconds * 1e6:g} us per launch, {host.launches:,} launches in a step (operators of "
        "the dense block forward and backward, counted; look-ups, exchange and optimizers add to them, see `home-dist bench`); "
        f"{host.threads} {'thread' if host.threads == 1 else 'threads'} per rank that decode (data.threads), "
        f"{host.rows_per_second / host.threads:,.0f} rows/s each: {machines.device.decode:,.0f} were measured with rows of "
        f"{MEASURED_VALUES} values (benchmarks/results/reader.md), rows here have {host.values:,.0f}"
    )
    if lengths.assumed:
        known = sorted({f"{c} {lengths.by_key[k]:g}" for k in lengths.by_key for c in lengths.assumed if k.endswith(c)})
        yield f"assumed, as no data tells: ids per sample of {', '.join(known)}. --mean-length NAME=NUMBER says better"


def plan_table(placed: Sequence[Placed]) -> Table:
    table = Table(title="sharding plan")
    table.add_column("table")
    for name in ("rows", "dim"):
        table.add_column(name, justify="right")
    table.add_column("sharding")
    table.add_column("ranks")
    table.add_column("GB", justify="right")
    for p in placed[:_MOST]:
        kind = p.sharding if p.memory == "device" else f"{p.sharding}, {p.memory}"
        table.add_row(p.table, f"{p.rows:,}", str(p.dim), kind, span(sorted({s.rank for s in p.shards})), _gb(_bytes(p)))
    rest = placed[_MOST:]
    if rest:
        table.add_row(f"({len(rest)} smaller ones)", f"{sum(p.rows for p in rest):,}", "", "", "", _gb(sum(map(_bytes, rest))))
    return table


def memory_table(machines: Machines, estimated: Estimate) -> Table:
    table = Table(title=f"memory of a rank, GB of {machines.device.memory:g}")
    table.add_column("for")
    for name in ("least", "mean", "most"):
        table.add_column(name, justify="right")
    for name, values in estimated.memory.items():
        table.add_row(name, *(_gb(x) for x in (values.min(), values.mean(), values.max())))
    whole = sum(estimated.memory.values(), np.zeros(machines.count))
    table.add_section()
    table.add_row("all", *(_gb(x) for x in (whole.min(), whole.mean(), whole.max())))
    if estimated.tables.in_host.any():
        values = estimated.tables.in_host
        of_host = f"tables in the host's memory, of {machines.device.host_memory:g}"
        table.add_row(of_host, *(_gb(x) for x in (values.min(), values.mean(), values.max())))
    free = machines.device.memory * 1e9 - whole.max()
    table.add_row(f"free on the fullest ({HEAD_ROOM:.0%} are kept free)", "", "", _gb(free))
    return table


def traffic_table(machines: Machines, estimated: Estimate) -> Table:
    table = Table(title="sent by a rank in a step, MB, mean (most)")
    table.add_column("what")
    table.add_column("within the host", justify="right")
    table.add_column("to other hosts", justify="right")
    for use in (u for u in USES if u != "samples and experts" or estimated.traffic.handed[u].any()):
        table.add_row(use, _mb(estimated.traffic.intra[use]), _mb(estimated.traffic.inter[use]))
    table.add_section()
    sums = [sum(way.values(), np.zeros(machines.count)) for way in (estimated.traffic.intra, estimated.traffic.inter)]
    table.add_row("all", *map(_mb, sums))
    return table


def time_table(estimated: Estimate) -> Table:
    table = Table(title="where a step would go")
    table.add_column("part")
    table.add_column("ms", justify="right")
    table.add_column("")
    longest = max([*estimated.seconds.values(), *estimated.hidden.values()]) or 1.0
    for name, seconds in estimated.seconds.items():
        table.add_row(name, f"{seconds * 1e3:,.2f}", "█" * round(30 * seconds / longest))
    for name, seconds in estimated.hidden.items():
        table.add_row(f"{name} (hidden)", f"{seconds * 1e3:,.2f}", "░" * round(30 * seconds / longest))
    return table


def bounds_table(estimated: Estimate) -> Table:
    table = Table(title="what a step takes at least: the largest of these, which go on beside each other")
    table.add_column("bound")
    table.add_column("ms", justify="right")
    table.add_column("")
    for name, seconds in estimated.bounds.items():
        table.add_row(name, f"{seconds * 1e3:,.2f}", "█" * round(30 * seconds / estimated.step))
    return table


def checkpoint_table(machines: Machines, cost: CheckpointCost, speeds: Speeds) -> Table:
    at = f"{speeds.host:g} GB/s a host" + (f", {speeds.store:g} GB/s the store" if speeds.store else "")
    table = Table(title=f"a checkpoint, at {at}")
    table.add_column("what")
    table.add_column("", justify="right")
    in_all, most = float(cost.written.sum()), float(cost.written.max())
    table.add_row("bytes in all", f"{_gb(in_all)} GB")
    table.add_row("bytes of the fullest rank", f"{_gb(most)} GB")
    table.add_row("copies in the fullest host's memory", f"{_gb(cost.host_copies)} GB")
    table.add_row("training waits (copy to the host)", f"{cost.stall:,.2f} s")
    table.add_row("until it is whole, beside training", f"{cost.writing:,.1f} s")
    table.add_section()
    for name, seconds in cost.restart.items():
        table.add_row(f"restart: {name}", f"{seconds:,.1f} s")
    table.add_row("restart, in all", f"{sum(cost.restart.values()):,.1f} s")
    return table


def version_table(config: RunConfig, cost: VersionCost) -> Table:
    section = config.publish or PublishSection(to="-")
    table = Table(title=f"a published version, rows as {section.rows}")
    table.add_column("what")
    table.add_column("", justify="right")
    table.add_row("marks of touched rows, on the fullest rank", f"{_gb(cost.marks)} GB")
    table.add_row("full version", f"{_gb(cost.full)} GB")
    table.add_row("from its start to its step, beside training", f"{cost.full_seconds:,.1f} s")
    table.add_section()
    table.add_row(f"rows of a delta every {section.every_seconds:g} s, at most", f"{cost.delta_rows:,.0f}")
    table.add_row("their bytes", f"{_gb(cost.delta)} GB")
    table.add_row("their copies in a host's memory", f"{_gb(cost.delta_copies)} GB")
    return table


def span(ranks: Sequence[int]) -> str:
    if len(ranks) > 2 and ranks[-1] - ranks[0] == len(ranks) - 1:
        return f"{ranks[0]}-{ranks[-1]}"
    return ", ".join(map(str, ranks[:8])) + (f", ... ({len(ranks)})" if len(ranks) > 8 else "")


def _bytes(placed: Placed) -> float:
    return sum(s.rows * s.columns for s in placed.shards) * float(placed.weight_bytes)


def _imbalance(values: NDArray[np.float64]) -> float:
    return float(values.max() / values.mean()) if values.mean() else 1.0


def _gb(size: float) -> str:
    return f"{size / 1e9:,.2f}"


def _mb(values: NDArray[np.float64]) -> str:
    return f"{values.mean() / 1e6:,.2f} ({values.max() / 1e6:,.2f})"
