"""Where a run's tables lie, in memory and in its checkpoint, and how stored rows are read by a map."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from home_dist.data.matching_rows import Map
from home_dist.embeddings.collections import table_shards
from home_dist.embeddings.replicated import ReplicatedTables
from home_dist.errors import CheckpointError
from home_dist.schema import InputLayout, Table
from home_dist.training.checkpoint.pieces import Stored

_BLOCK_BYTES = 64 * 2**20
"""Stored rows that are in memory at one time."""


@dataclass(frozen=True)
class Place:
    """Position of a table in a checkpoint: rows first .. first + rows - 1 of `tensor`."""

    tensor: str
    first: int
    rows: int


def all_tables(layout: InputLayout) -> dict[str, Table]:
    """Tables by name, including tables of statistics' buckets."""
    return {i.table.name: i.table for i in layout.inputs}


def replicated_tables(layout: InputLayout) -> ReplicatedTables:
    """Replicated tables as the network makes them, to look up each table's place."""
    return ReplicatedTables([i for i in layout.inputs if i.table.replicated], 0.0)


def replicated_weight(key: str) -> str:
    """Name, in the model, of the weight that holds all replicated tables of one width. key: see ReplicatedTables.place."""
    return f"head.features.replicated.weights.{key}"


def table_places(layout: InputLayout, stored: Stored) -> Iterator[tuple[str, Place]]:
    """(table, its place) of all tables. Raises CheckpointError if the checkpoint lacks one."""
    small = replicated_tables(layout)
    for table in all_tables(layout).values():
        if table.replicated:
            key, first = small.place(table.name)
            tensor = f"dense/{replicated_weight(key)}"
        else:
            tensor, first = f"tables/{table.name}/weight", 0
        if tensor not in stored.tensors:
            raise CheckpointError(f"{stored.folder}: it holds no {tensor}, which its run's schema asks for. Use another one.")
        yield table.name, Place(tensor, first, table.rows)


def parts_here(model: nn.Module, table: Table, small: ReplicatedTables) -> Iterator[tuple[int, int, torch.Tensor]]:
    """(first row, first column, values) of each part of the table on this rank. small: of the run's layout."""
    if table.replicated:
        key, first = small.place(table.name)
        yield 0, 0, model.state_dict()[replicated_weight(key)][first : first + table.rows]
        return
    for shard in table_shards(model):
        if shard.table == table.name:
            yield shard.first_row, shard.first_column, shard.values


def gather(
    rows: Map,
    out: torch.Tensor,
    read: Callable[[int, int], torch.Tensor],
    row_bytes: int,
    block_bytes: int = _BLOCK_BYTES,
) -> None:
    """Sets out[i] to stored row rows[i] unless rows[i] is -1. out: (n, ...).

    read(first, count) returns stored rows (count, ...). It is called for blocks of at most `block_bytes`, and only for those
    that hold a row of the map.
    """
    wanted = np.flatnonzero(rows >= 0)
    order = wanted[np.argsort(rows[wanted], kind="stable")]
    sorted_rows = rows[order]
    step, begin = max(1, block_bytes // row_bytes), 0
    while begin < len(order):
        first = int(sorted_rows[begin])
        end = int(np.searchsorted(sorted_rows, first + step))
        values = read(first, int(sorted_rows[end - 1]) + 1 - first)
        taken = torch.from_numpy(sorted_rows[begin:end] - first)
        out[torch.from_numpy(order[begin:end])] = values[taken].to(out)
        begin = end


def gather_box(stored: Stored, place: Place, rows: Map, column: int, out: torch.Tensor) -> None:
    """Sets out[i] to columns column .. of row rows[i] of the table at `place`, unless rows[i] is -1. out: (n, columns)."""
    width = out.shape[1]

    def read(first: int, count: int) -> torch.Tensor:
        return stored.box(place.tensor, (place.first + first, column), (count, width))

    gather(rows, out, read, width * stored.dtype(place.tensor).itemsize)
