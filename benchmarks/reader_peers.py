"""Reads padded files with a peer's reader and prints rows and seconds.

Started by benchmarks/reader.py, by the interpreter of an environment that has the peers and not home_dist.
"""

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq


def rechub(folder: Path, batch: int, workers: int) -> Iterable[dict[str, Any]]:
    from torch.utils.data import DataLoader
    from torch_rechub.data.dataset import ParquetIterableDataset

    dataset = ParquetIterableDataset(sorted(folder.glob("*.parquet")), batch_size=batch)
    return DataLoader(dataset, batch_size=None, num_workers=workers)


def fuxictr(folder: Path, batch: int, workers: int) -> Iterable[dict[str, Any]]:
    from fuxictr.pytorch.dataloaders.parquet_block_dataloader import ParquetBlockDataLoader

    schema = pq.read_schema(next(iter(sorted(folder.glob("*.parquet")))))
    labels = [name for name in schema.names if name.startswith("label")]
    features = [name for name in schema.names if name not in labels]
    # What the loader asks of a FeatureMap: names, and where each column stands in its array of all of them.
    places: dict[str, int | list[int]] = {}
    width = 0
    lengths = pq.read_table(next(iter(sorted(folder.glob("*.parquet"))))).slice(0, 1).to_pylist()[0]
    for name in features + labels:
        count = len(lengths[name]) if isinstance(lengths[name], list) else 1
        places[name] = width if count == 1 else list(range(width, width + count))
        width += count
    features_of = SimpleNamespace(features=dict.fromkeys(features), labels=labels, get_column_index=lambda name: places[name])
    return ParquetBlockDataLoader(features_of, str(folder), batch_size=batch, num_workers=workers)


def main() -> None:
    peers = {"torch-rechub": rechub, "FuxiCTR": fuxictr}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=peers)
    parser.add_argument("folder", type=Path)
    parser.add_argument("batch", type=int, help="rows")
    parser.add_argument("workers", type=int, help="processes")
    chosen = parser.parse_args()
    loader = peers[chosen.peer](chosen.folder, chosen.batch, chosen.workers)
    began = time.perf_counter()
    rows = sum(len(part["label_0"]) for part in loader)
    print(json.dumps({"rows": rows, "seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    main()
