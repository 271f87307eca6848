"""The message when no plan fits: which tables, by how many bytes, and remedies."""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

from home_dist.config import RunConfig
from home_dist.config.embedding import TableSection
from home_dist.planning.estimate import HEAD_ROOM, state_bytes
from home_dist.planning.topology import Machines
from home_dist.schema import InputLayout
from home_dist.schema.layout import Table


def does_not_fit(layout: InputLayout, config: RunConfig, machines: Machines, fixed: float, buffers: float, reason: str) -> str:
    """The message when no plan fits: which tables, by how many bytes, and remedies."""
    usable = machines.device.memory * 1e9 * (1 - HEAD_ROOM) - fixed - buffers

    def whole(table: Table) -> float:
        return table.bytes + table.managed_bytes + state_bytes(config.embedding.optimizer, table.rows, table.dim)

    def away(table: Table) -> bool:
        return table.is_in_host_memory(machines.device.platform)

    def size(table: Table) -> float:
        """Bytes on devices."""
        return table.bytes * table.cached_rows if away(table) else whole(table)

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
    in_host, host_room = sum(whole(t) for t in tables if away(t)), machines.device.host_memory * machines.count * 1e9
    if in_host > host_room * (1 - HEAD_ROOM):
        lines.append(
            f"Tables that lie in the hosts' memory take {in_host / 1e9:,.1f} GB, and the hosts have {host_room / 1e9:,.1f} GB "
            f"for them ({machines.device.host_memory:,.0f} per device, of which {HEAD_ROOM:.0%} are kept free). Take more "
            "devices, or narrower tables."
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
    if total <= room:
        lines.append("Altogether they would fit: it is the pins, or tables that cannot be cut finely enough. Take pins away.")
        return "\n".join(lines)
    devices = math.ceil(total / usable / machines.per_host) * machines.per_host
    option = f": --topology {devices}x{machines.name}" if machines.asked else ""
    lines.append(f"It lacks {(total - room) / 1e9:,.1f} GB. Any of these would do, by this sum:")
    lines.append(f"  {devices} devices or more{option}")

    def fits(changed: Iterable[Table]) -> bool:
        return sum(map(size, changed)) <= room

    dim = config.embedding.dim
    for narrower in range(dim - 4, 0, -4):
        if fits(t if _section(config, t).dim else replace(t, dim=narrower * t.sets) for t in tables):
            lines.append(f"  narrower tables: embedding.dim = {narrower} instead of {dim}")
            break
    if config.embedding.precision == "fp32" and fits(replace(t, half=t.half or _may_be_half(config, t)) for t in tables):
        lines.append('  half as many bytes per weight: embedding.precision = "fp16"')
    if machines.device.platform == "cuda":
        lines += _in_hosts(config, tables, size, whole, total - room, host_room * (1 - HEAD_ROOM) - in_host)
    largest = tables[0]
    keep = largest.rows - (total - room) / (size(largest) / largest.rows)
    if keep > largest.rows * 0.05:
        lines.append(f"  the first {int(keep):,} rows of {largest.name}: embedding.tables.{largest.name}.keep_rows")
    return "\n".join(lines)


def _section(config: RunConfig, table: Table) -> TableSection:
    return config.embedding.tables.get(table.name, TableSection())


def _may_be_half(config: RunConfig, table: Table) -> bool:
    return not table.managed and _section(config, table).sharding != "data_parallel"


def _in_hosts(
    config: RunConfig,
    tables: list[Table],
    size: Callable[[Table], float],
    whole: Callable[[Table], float],
    lacks: float,
    room: float,
) -> list[str]:
    """The line that names the fewest tables, the largest first, whose place in the hosts' memory would make the rest fit; none
    if that does not help. lacks: bytes on devices; room: bytes of the hosts."""
    moved: list[Table] = []
    for table in tables:
        if lacks <= 0:
            break
        if size(table) == whole(table) and _may_be_half(config, table) and whole(table) <= room:
            moved.append(table)
            lacks, room = lacks - size(table), room - whole(table)
    if lacks > 0 or not moved:
        return []
    names = ", ".join(t.name for t in moved)
    keys = ", ".join(f"embedding.tables.{t.name}.memory" for t in moved)
    return [f'  {names} in the memory of the hosts: {keys} = "host"']
