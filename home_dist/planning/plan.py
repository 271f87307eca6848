"""`home-dist plan`: plans a run on devices that need not be present, and estimates it."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from home_dist.config import RunConfig
from home_dist.data import open_files
from home_dist.data.side_files import with_local_schema
from home_dist.errors import ConfigError
from home_dist.files.stores import join
from home_dist.planning import show
from home_dist.planning.estimate import HEAD_ROOM, Estimate, estimate, not_tables
from home_dist.planning.host import host_work
from home_dist.planning.lengths import Lengths, of_footers
from home_dist.planning.probe import DenseCost, probe
from home_dist.planning.propose import NoPlan, model_without_memory, propose
from home_dist.planning.topology import Machines
from home_dist.planning.traffic import Placed
from home_dist.schema import InputLayout, build_layout, load_schema
from home_dist.schema.layout import Table

_STATE = {"row_wise_adagrad": "row", "adagrad": "weight", "sgd": "none"}


@dataclass(frozen=True)
class Planned:
    machines: Machines
    config: RunConfig
    placed: list[Placed]
    dense: DenseCost
    estimate: Estimate
    lengths: Lengths


def plan(config: RunConfig, machines: Machines, given: Mapping[str, float]) -> Planned:
    """given: mean ids per sample of list columns, by name. Raises ConfigError, with remedies, when no plan fits."""
    local = with_local_schema(config)
    schema = load_schema(local.schema_path())
    layout = build_layout(schema, local)
    lengths = Lengths.of(layout, given, _footers(local, schema, layout))
    network = model_without_memory(schema, layout, config)
    dense = probe(network, layout, lengths.by_key)
    fixed = sum(not_tables(config, dense).values())
    buffers = _buffers(layout, config, machines, lengths.by_key)
    reserved = fixed + buffers + HEAD_ROOM * machines.device.memory * 1e9
    try:
        placed = propose(network, layout, config, machines, lengths.by_key, reserved)
    except NoPlan as reason:
        raise ConfigError(does_not_fit(layout, config, machines, fixed, buffers, str(reason))) from None
    tasks = len(network.head.objectives.outputs)
    host = host_work(config, layout, tasks, lengths.by_key, machines.device, dense)
    return Planned(machines, config, placed, dense, estimate(placed, config, machines, dense, lengths.by_key, host), lengths)


def _footers(config: RunConfig, schema: Any, layout: InputLayout) -> Mapping[str, float]:
    """Mean lengths of the training data's lists, by column, from its files' footers; empty without data."""
    if (
        not Path(config.data.path).is_dir()
        or not config.data.train
        or not (Path(config.data.path) / config.data.train).exists()
    ):
        return {}
    return of_footers(open_files(join(config.data.path, config.data.train), schema, layout))


def _buffers(layout: InputLayout, config: RunConfig, machines: Machines, lengths: Mapping[str, float]) -> float:
    """Bytes of a rank's exchange buffers. The plan is not yet known: all tables are taken as sharded by row."""
    total = 0.0
    for item in layout.inputs:
        if item.table.replicated:
            continue
        vectors = 1.0 if item.place in ("bag", "weighted_bag") else lengths.get(item.key, 1.0)
        total += config.train.batch_size * (vectors * item.table.dim * 4 * 4 + lengths.get(item.key, 1.0) * 8 * 3)
    return total


def does_not_fit(layout: InputLayout, config: RunConfig, machines: Machines, fixed: float, buffers: float, reason: str) -> str:
    """The message when no plan fits: which tables, by how many bytes, and remedies."""
    usable = machines.device.memory * 1e9 * (1 - HEAD_ROOM) - fixed - buffers
    kind = _STATE[config.embedding.optimizer]

    def size(table: Table, half: bool = False) -> float:
        state = {"row": 1, "weight": table.dim, "none": 0}[kind] * 4.0
        return table.rows * (table.dim * (2.0 if half else table.weight_bytes) + state)

    tables = sorted((t for t in layout.tables if not t.replicated), key=lambda t: -size(t))
    total = sum(map(size, tables))
    name = f"{machines.count}x{machines.name}"
    lines = [f"no plan fits {name}. ({reason})"]
    if usable <= 0:
        lines.append(
            f"What is not tables takes {(fixed + buffers) / 1e9:,.1f} GB of each device, which has "
            f"{machines.device.memory:,.0f}: activations of {config.train.batch_size:,} samples among it. Take a smaller "
            "train.batch_size, or train.recompute_experts."
        )
        return "\n".join(lines)
    room = usable * machines.count
    lines.append(
        f"Tables and their optimizer take {total / 1e9:,.1f} GB; {machines.count} devices have room for {room / 1e9:,.1f} GB "
        f"({usable / 1e9:,.1f} each, beside {(fixed + buffers) / 1e9:,.1f} for all else and {HEAD_ROOM:.0%} head-room)."
    )
    lines.append("The largest:")
    for table in tables[:5]:
        pinned = config.embedding.tables[table.name].sharding if table.name in config.embedding.tables else None
        table_size = size(table)
        note = ""
        if pinned == "table_wise" and table_size > usable:
            note = (
                f", pinned table_wise: {(table_size - usable) / 1e9:,.1f} GB more than a device has room for. Pin it row_wise"
            )
        elif pinned == "table_row_wise" and table_size > usable * machines.per_host:
            note = f", pinned table_row_wise: more than a host's {machines.per_host} devices have room for. Pin it row_wise"
        elif pinned == "data_parallel" and table_size > usable:
            note = ", pinned data_parallel: every device would hold all of it. Pin it row_wise"
        lines.append(f"  {table.name}: {table.rows:,} rows x {table.dim} = {table_size / 1e9:,.1f} GB{note}")
    if total > room:
        factor = room / total
        devices = math.ceil(total / usable / machines.per_host) * machines.per_host
        lines.append(f"It lacks {(total - room) / 1e9:,.1f} GB. Any of these would do, by this sum:")
        lines.append(f"  {devices} devices or more: --topology {devices}x{machines.name}")
        narrower = int(config.embedding.dim * factor) // 4 * 4
        if narrower >= 4:
            lines.append(
                f"  tables of about {factor:.0%} of their width: embedding.dim = {narrower} instead of {config.embedding.dim}"
            )
        if config.embedding.precision == "fp32" and sum(size(t, half=True) for t in tables) <= room:
            lines.append('  half as many bytes per weight: embedding.precision = "fp16"')
        largest = tables[0]
        keep = largest.rows - (total - room) / (size(largest) / largest.rows)
        if keep > largest.rows * 0.05:
            lines.append(f"  the first {int(keep):,} rows of {largest.name}: embedding.tables.{largest.name}.keep_rows")
    else:
        lines.append("Altogether they would fit: it is the pins, or tables that cannot be cut finely enough. Take pins away.")
    return "\n".join(lines)


def run(config: RunConfig, machines: Machines, given: Mapping[str, float], as_json: bool) -> None:
    planned = plan(config, machines, given)
    if as_json:
        print(json.dumps(tree(planned), indent=1))
        return
    console = Console(width=None if Console().is_terminal else 118, highlight=False, soft_wrap=True)
    for part in show.parts(planned.machines, planned.placed, planned.dense, planned.estimate, planned.lengths, config):
        console.print(part, markup=False) if isinstance(part, str) else console.print(part)


def tree(planned: Planned) -> dict[str, Any]:
    """All figures of a plan, for JSON."""

    def summary(values: np.ndarray) -> dict[str, float]:
        return {"min": float(values.min()), "mean": float(values.mean()), "max": float(values.max())}

    estimated = planned.estimate
    return {
        "topology": {"kind": planned.machines.name, "devices": planned.machines.count, "hosts": planned.machines.hosts},
        "tables": [
            {"name": p.table, "rows": p.rows, "dim": p.dim, "sharding": p.sharding, "ranks": sorted({s.rank for s in p.shards})}
            for p in planned.placed
        ],
        "memory_bytes": {name: summary(values) for name, values in estimated.memory.items()},
        "traffic_bytes": {
            way: {use: summary(values) for use, values in getattr(estimated.traffic, way).items()}
            for way in ("handed", "intra", "inter")
        },
        "seconds": estimated.seconds,
        "hidden_seconds": estimated.hidden,
        "step_seconds": estimated.step,
        "bound": estimated.bound,
        "bounds_seconds": estimated.bounds,
        "samples_per_second": estimated.samples_per_second,
        "launches_per_step": estimated.host.launches,
        "launch_seconds": estimated.host.launch_seconds,
        "reader": {
            "rows_per_second_per_rank": estimated.host.rows_per_second,
            "threads_per_rank": estimated.host.threads,
            "values_per_row": estimated.host.values,
        },
        "dense_parameters": planned.dense.parameters,
        "flops_per_sample": planned.dense.flops,
        "mean_lengths": dict(planned.lengths.by_key),
    }


def lengths_given(texts: Sequence[str]) -> dict[str, float]:
    """["clicks=30"] -> {"clicks": 30.0}. Raises ConfigError."""
    lengths = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            lengths[name] = float(value)
        except ValueError:
            equals = ""
        if not equals or not name or lengths.get(name, 0) < 0:
            raise ConfigError(f"--mean-length {text}: write it as NAME=NUMBER, with the name of a feature, sequence or column")
    return lengths
