"""`home-dist plan`: plans a run on devices that need not be present, and estimates it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from home_dist.config import RunConfig
from home_dist.data import open_files
from home_dist.data.side_files import schema_of, with_local_schema
from home_dist.errors import ConfigError
from home_dist.files.places import join
from home_dist.planning import show
from home_dist.planning.checkpoints import CheckpointCost, Speeds, checkpoint_cost
from home_dist.planning.estimate import Estimate, estimate
from home_dist.planning.host import host_work
from home_dist.planning.lengths import Lengths, of_footers
from home_dist.planning.placement import model_without_memory, place, placed_tables
from home_dist.planning.probe import DenseCost
from home_dist.planning.topology import Machines
from home_dist.planning.traffic import Placed
from home_dist.planning.versions import VersionCost, version_cost
from home_dist.schema import InputLayout, build_layout
from home_dist.screen import Screen

_LONGEST = 1_000_000  # mean ids per sample


@dataclass(frozen=True)
class Planned:
    machines: Machines
    config: RunConfig
    placed: list[Placed]
    dense: DenseCost
    estimate: Estimate
    lengths: Lengths
    checkpoint: CheckpointCost
    version: VersionCost | None
    """With a [publish] section."""


def plan(config: RunConfig, machines: Machines, given: Mapping[str, float], speeds: Speeds | None = None) -> Planned:
    """given: mean ids per sample of list columns, by name; speeds: of the place of checkpoints. Raises ConfigError, with
    remedies, when no plan fits."""
    local = with_local_schema(config)
    schema = schema_of(local)
    layout = build_layout(schema, local)
    lengths = Lengths.of(layout, given, _footers(local, schema, layout))
    network = model_without_memory(schema, layout, config, machines.count)
    found = place(network, layout, config, machines, lengths.by_key)
    placed, dense = placed_tables(found.plan, layout, machines.count), found.dense
    tasks = len(network.head.objectives.outputs)
    host = host_work(config, layout, tasks, lengths.by_key, machines.device, dense)
    estimated = estimate(placed, config, machines, dense, lengths.by_key, host)
    saved = checkpoint_cost(estimated.tables, dense, machines, speeds or Speeds())
    version = version_cost(config, placed, machines, lengths.by_key, estimated.step, speeds or Speeds())
    return Planned(machines, config, placed, dense, estimated, lengths, saved, version)


def _footers(config: RunConfig, schema: Any, layout: InputLayout) -> Mapping[str, float]:
    """Mean lengths of the training data's lists, by column, from its files' footers; empty without data."""
    if (
        not Path(config.data.path).is_dir()
        or not config.data.train
        or not (Path(config.data.path) / config.data.train).exists()
    ):
        return {}
    return of_footers(open_files(join(config.data.path, config.data.train), schema, layout))


def run(config: RunConfig, machines: Machines, given: Mapping[str, float], speeds: Speeds) -> dict[str, Any]:
    """Shows a plan; returns its figures."""
    planned, screen = plan(config, machines, given, speeds), Screen(True)
    for part in show.parts(planned.machines, planned.placed, planned.dense, planned.estimate, planned.lengths, config):
        if isinstance(part, str):
            screen.say(part)
        else:
            screen.table(part)
    screen.table(show.checkpoint_table(planned.machines, planned.checkpoint, speeds))
    if planned.version is not None:
        screen.table(show.version_table(config, planned.version))
    return tree(planned)


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
        "host_memory_bytes": summary(estimated.tables.in_host),
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
        "checkpoint": {
            "bytes": summary(planned.checkpoint.written),
            "bytes_in_all": float(planned.checkpoint.written.sum()),
            "bytes_of_copies_on_the_fullest_host": planned.checkpoint.host_copies,
            "stall_seconds": planned.checkpoint.stall,
            "writing_seconds": planned.checkpoint.writing,
            "restart_seconds": planned.checkpoint.restart,
        },
        "version": None if planned.version is None else asdict(planned.version),
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
        if not equals or not name or not 0 <= lengths.get(name, 0) <= _LONGEST:
            raise ConfigError(
                f"--mean-length {text}: write it as NAME=NUMBER, with the name of a feature, sequence or column, and a number "
                f"from 0 to {_LONGEST:,}"
            )
    return lengths
