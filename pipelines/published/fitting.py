"""The few changes that make published files fit their descriptions: links, columns that stand in two tables, lists as texts.

Each function writes into the description's folder, reads `raw` in pieces, and returns text to append to the description.
"""

import csv
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from home_dist.errors import DataError

_ROWS = 65_536
VECTORS = "item_vectors.parquet"


def vk_lsvd(raw: Path, out: Path) -> str:
    """Weeks of all splits in one folder, in their order; tables of users and items without the counts that both have."""
    weeks = sorted(raw.glob("*/week_*.parquet"), key=lambda p: p.name) or sorted(
        raw.glob("interactions/*/week_*.parquet"), key=lambda p: p.name
    )
    if not weeks:
        raise DataError(f"{raw}: no interactions/*/week_*.parquet. Name the folder with the published files, or a subsample's.")
    (out / "weeks").mkdir()
    for week in weeks:
        os.symlink(week.absolute(), out / "weeks" / week.name)
    metadata = next((p / "metadata" for p in (raw, *raw.absolute().parents) if (p / "metadata").is_dir()), None)
    if metadata is None:
        raise DataError(f"{raw}: no folder metadata/ with users_metadata.parquet and items_metadata.parquet in or around it.")
    for name in ("users", "items"):
        _without(metadata / f"{name}_metadata.parquet", out / f"{name}.parquet", "train_interactions_rank")
    if (metadata / "item_embeddings.npz").is_file():
        _vectors(metadata / "item_embeddings.npz", out / VECTORS)
    return ""


def kuairec(raw: Path, out: Path) -> str:
    """Tags as lists, and what the daily table says of a video on its first day."""
    for name in ("big_matrix.csv", "user_features.csv", "item_categories.csv", "item_daily_features.csv"):
        _needed(raw / name)
    os.symlink((raw / "big_matrix.csv").absolute(), out / "big_matrix.csv")
    os.symlink((raw / "user_features.csv").absolute(), out / "users.csv")
    wanted = ["video_id", "date", "author_id", "music_id", "video_type"]
    daily = pacsv.read_csv(raw / "item_daily_features.csv", convert_options=pacsv.ConvertOptions(include_columns=wanted))
    first = daily.sort_by([("video_id", "ascending"), ("date", "ascending")])
    facts = first.group_by("video_id", use_threads=False).aggregate([(n, "first") for n in wanted[2:]])
    facts = facts.rename_columns({f"{n}_first": n for n in wanted[2:]})
    tags = pacsv.read_csv(raw / "item_categories.csv")
    texts = pc.utf8_trim(tags["feat"].cast(pa.string()), "[] ")
    lists = pc.split_pattern(texts, ",").combine_chunks()
    numbers = pc.utf8_trim_whitespace(lists.flatten()).cast(pa.int64())
    tags = pa.table({"video_id": tags["video_id"], "tags": pa.ListArray.from_arrays(lists.offsets, numbers)})
    order = pc.index_in(facts["video_id"], value_set=tags["video_id"])
    pq.write_table(facts.append_column("tags", tags["tags"].take(order)), out / "items.parquet")
    return ""


def tenrec(raw: Path, out: Path) -> str:
    """raw: the file, such as ctr_data_1M.csv or QK-video.csv."""
    _needed(raw)
    os.symlink(raw.absolute(), out / "log.csv")
    return ""


def aliexpress(raw: Path, out: Path) -> str:
    """Each tenth row of train.csv goes to the validation part, line by line: a reader of a part of the file would mistake the
    types of columns whose first values are whole numbers."""
    entries: list[str] = []
    for part in ("train", "test"):
        _needed(raw / f"{part}.csv")
        (out / f"part={part}").mkdir()
    os.symlink((raw / "test.csv").absolute(), out / "part=test" / "test.csv")
    (out / "part=validation").mkdir()
    train, validation = (out / f"part={part}" / "train.csv" for part in ("train", "validation"))
    with (raw / "train.csv").open("rb") as lines, train.open("wb") as training, validation.open("wb") as held:
        head = lines.readline()
        training.write(head)
        held.write(head)
        for row, line in enumerate(lines):
            (held if row % 10 == 9 else training).write(line)
    names = next(csv.reader([head.decode("utf-8-sig")]), [])
    for name in names:
        if name.startswith("categorical"):
            entries.append(f'[[id]]\ncolumn = "{name}"\n')
        elif name.startswith("numerical"):
            entries.append(f'[[number]]\ncolumn = "{name}"\n')
    if not entries:
        raise DataError(f"{raw / 'train.csv'}: no columns categorical_* and numerical_*; there are: {', '.join(names)}.")
    return "\n".join(entries)


FITTING: dict[str, Callable[[Path, Path], str]] = {
    "vk_lsvd": vk_lsvd,
    "kuairec": kuairec,
    "tenrec": tenrec,
    "aliexpress": aliexpress,
}


def _needed(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"{path}: no such file. Name the folder (for tenrec the file) that was published.")


def _without(source: Path, out: Path, column: str) -> None:
    _needed(source)
    file = pq.ParquetFile(source)
    kept = [n for n in file.schema_arrow.names if n != column]
    with pq.ParquetWriter(out, pa.schema([file.schema_arrow.field(n) for n in kept])) as writer:
        for batch in file.iter_batches(_ROWS, columns=kept):
            writer.write_batch(batch)


def _vectors(source: Path, out: Path) -> None:
    """item_id (N,) and embedding (N, width) of an .npz file as Parquet with item_id and vector. Vectors are read in pieces."""
    with zipfile.ZipFile(source) as packed, packed.open("embedding.npy") as file:
        ids = np.load(source)["item_id"]
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        (count, width), in_columns, kind = read(file)
        if in_columns or count != len(ids):
            raise DataError(f"{source}: embedding has shape {count} x {width} for {len(ids):,} items, or is stored by columns.")
        with pq.ParquetWriter(out, pa.schema({"item_id": pa.int64(), "vector": pa.list_(pa.float32())})) as writer:
            for first in range(0, count, _ROWS):
                rows = min(_ROWS, count - first)
                values = np.frombuffer(file.read(rows * width * kind.itemsize), kind).astype(np.float32)
                offsets = pa.array(np.arange(rows + 1) * width, pa.int32())
                vectors = pa.ListArray.from_arrays(offsets, pa.array(values))
                keys = pa.array(ids[first : first + rows].astype(np.int64))
                writer.write_table(pa.table({"item_id": keys, "vector": vectors}))
