"""What `[publish]` costs a run: bytes of versions and of what is kept for them, and seconds at given speeds.

As publish/live.py does it: a mark per row notes what training touches; the rows that were touched since the last version are
copied between two steps, and written beside training; a full version is read beside training, hashed and written by all ranks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from home_dist.config import RunConfig
from home_dist.config.publish import PublishSection, RowType
from home_dist.planning.checkpoints import HASHED, Speeds
from home_dist.planning.topology import Machines
from home_dist.planning.traffic import Placed

_VALUE: dict[RowType, int] = {"fp32": 4, "fp16": 2, "int8": 1}
_SCALES, _SLOT, _ID = 8, 8, 8
_OWNER = 8


@dataclass(frozen=True)
class VersionCost:
    marks: float
    """Bytes of the fullest rank's memory: marks of rows, and owners of managed rows as versions tell them."""
    full: float
    """Bytes of a full version. Ids count 8 bytes each; texts are longer."""
    full_seconds: float
    """From its start to its step, beside training."""
    delta_rows: float
    """Rows of a delta, at most: no id of its steps occurs twice."""
    delta: float
    """Bytes of a delta, at most."""
    delta_copies: float
    """Bytes of the fullest host's memory, at most, that a delta's copies take if rows are spread evenly."""


def version_cost(
    config: RunConfig, placed: Sequence[Placed], machines: Machines, lengths: Mapping[str, float], step: float, speeds: Speeds
) -> VersionCost | None:
    """None without a [publish] section. lengths: ids per sample, by key of the input; step: its seconds."""
    section = config.publish
    if section is None:
        return None
    marks = np.zeros(machines.count)
    full = delta = copies = rows_touched = 0.0
    steps = max(1.0, section.every_seconds / step)
    for table in placed:
        for shard in table.shards:
            marks[shard.rank] += shard.rows * (1 + (_OWNER if table.of.managed else 0))
        row = _row(section, table)
        looked_up = sum(lengths.get(i.key, 1.0) for i in table.users) * config.train.batch_size * machines.count
        touched = min(float(table.rows), steps * looked_up)
        rows_touched += touched
        full += table.rows * row
        delta += touched * row
        copies += touched * table.dim * table.weight_bytes
    at = min(speeds.host * machines.hosts, speeds.store or np.inf, HASHED * machines.count)
    return VersionCost(
        marks=float(marks.max()),
        full=full,
        full_seconds=full / (at * 1e9),
        delta_rows=rows_touched,
        delta=delta,
        delta_copies=copies / machines.hosts,
    )


def _row(section: PublishSection, table: Placed) -> int:
    """Bytes of a row in a version."""
    return table.dim * _VALUE[section.rows] + (_SCALES if section.rows == "int8" else 0) + _SLOT + _ID
