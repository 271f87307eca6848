"""Writes the generated log in bounded memory: splits, frozen table, draft, fitted schema and vocabularies; whole or absent."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from home_dist.errors import ConfigError
from home_dist.files.whole import whole_folder
from home_dist.prepare.fit import fit_data
from home_dist.prepare.progress import Advance, Progress, Say
from home_dist.prepare.synthetic.drawn_rows import draft, frozen_vectors, item_ids, tables
from home_dist.prepare.synthetic.world import World
from home_dist.schema import Schema
from home_dist.schema.frozen import KEYS, VECTORS

FROZEN = "item_video"
_CHUNK = 8192  # impressions that are generated together
_SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
_MOST_WIDE = 256
_PARQUET = {"write_page_checksum": True, "store_schema": False}


@dataclass(frozen=True)
class Sizes:
    rows: int
    users: int
    items: int
    max_history: int
    vector_width: int
    rows_per_file: int
    seed: int
    watch_times: bool = False
    """One more task: how long the item was watched, in seconds (world.py)."""

    def check(self) -> None:
        for name, low, high in (
            ("rows", 10, 2**40),
            ("users", 2, 2**31),
            ("items", 64, 2**31),
            ("max_history", 1, 10**6),
            ("vector_width", 1, _MOST_WIDE),
            ("rows_per_file", 1, 2**40),
            ("seed", 0, 2**31),
        ):
            if not low <= getattr(self, name) <= high:
                option = "--" + name.replace("_", "-")
                raise ConfigError(f"{option} {getattr(self, name)}: must be from {low} to {high:,}")


def write_synthetic(out: Path, sizes: Sizes, say: Say) -> Schema:
    """The same sizes and seed give the same bytes. Raises ConfigError or DataError; `out` is whole or absent."""
    sizes.check()
    world = World(sizes.seed, sizes.users, sizes.items, sizes.max_history)
    with whole_folder(out) as writing:
        _write_frozen(world, writing / FROZEN, sizes.vector_width)
        progress, first = Progress.of(say), 0
        with progress.step("writing", sizes.rows) as advance:
            for split, share in _SHARES.items():
                count = sizes.rows - first if split == "test" else round(sizes.rows * share)
                _write_split(world, sizes, writing / split, first, count, advance)
                first += count
        (writing / "draft.toml").write_text(draft(FROZEN, sizes.vector_width, sizes.watch_times))
        schema = fit_data(writing / "draft.toml", writing, progress)
    return schema


def _write_frozen(world: World, folder: Path, width: int) -> None:
    """Writes vectors of all items but every tenth."""
    folder.mkdir()
    known = world.items - (world.items + 9) // 10
    keys = np.lib.format.open_memmap(folder / KEYS, mode="w+", dtype=np.int64, shape=(known,))
    vectors = np.lib.format.open_memmap(folder / VECTORS, mode="w+", dtype=np.float32, shape=(known, width))
    at = 0
    for first in range(0, world.items, _CHUNK):
        items = np.arange(first, min(first + _CHUNK, world.items))
        items = items[items % 10 != 0]
        keys[at : at + len(items)] = item_ids(items)
        vectors[at : at + len(items)] = frozen_vectors(world, items, width)
        at += len(items)
    keys.flush()
    vectors.flush()


def _write_split(world: World, sizes: Sizes, folder: Path, first: int, count: int, advance: Advance) -> None:
    folder.mkdir()
    for number, start in enumerate(range(first, first + count, sizes.rows_per_file)):
        stop = min(start + sizes.rows_per_file, first + count)
        path, writer = folder / f"part-{number:05d}.parquet", None
        try:
            for at in range(start, stop, _CHUNK):
                for table in tables(world, at, min(_CHUNK, stop - at), sizes.vector_width, sizes.watch_times):
                    writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd", **_PARQUET)
                    writer.write_table(table)
                advance(min(_CHUNK, stop - at))
        finally:
            if writer is not None:
                writer.close()
