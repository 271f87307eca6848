"""Pre-trained vectors from Parquet and from a frozen table, against the rows they were made of."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from home_dist.config import RunConfig
from home_dist.data import Reader, open_files
from home_dist.embeddings.pretrained import Pretrained
from home_dist.errors import ConfigError, DataError
from home_dist.network import FeatureVector
from home_dist.prepare.frozen import write_frozen
from home_dist.schema import InputLayout, Schema, build_layout, save_schema
from home_dist.schema.frozen import open_frozen

ITEMS, ROWS = 60, 100


def items(seed: int = 0) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {int(k) - 2**40: rng.normal(size=5).astype(np.float32) for k in rng.permutation(ITEMS)}


def make(folder: Path, fixed: bool = True, **changes: object) -> tuple[RunConfig, list[dict]]:
    """Every fifth row has no speech vector, some items are not in the table, every seventh item is null."""
    rng = np.random.default_rng(1)
    vectors = items()
    known = [*vectors][:50]
    for number, part in enumerate((known[:20], known[20:])):
        values = pa.array([vectors[k].tolist() for k in part], pa.list_(pa.float32()))
        names = pa.array([f"item {k}" for k in part])
        (folder / "items").mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"id": pa.array(part), "name": names, "text": values}), folder / "items" / f"{number}.parquet")
    for key in ("id", "name"):
        write_frozen(folder / "items", key, "text", folder / f"by_{key}")
    speech = rng.normal(size=(ROWS, 3))
    rows = []
    for n in range(ROWS):
        item = [*vectors][rng.integers(ITEMS)] if n % 7 else None
        row = {
            "speech": None if n % 5 == 0 else speech[n].tolist(),
            "item": item,
            "name": None if item is None else f"item {item}",
        }
        rows.append({**row, "like": n % 2, **changes} if n == 8 else {**row, "like": n % 2})
    kind = pa.list_(pa.float64(), 3) if fixed else pa.list_(pa.float32())
    types = pa.schema({"speech": kind, "item": pa.int64(), "name": pa.string(), "like": pa.int8()})
    (folder / "train").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, types), folder / "train" / "0.parquet", row_group_size=17)
    feature = [
        {"kind": "pretrained", "name": "speech", "column": "speech", "width": 3},
        {"kind": "pretrained", "name": "text", "column": "item", "width": 5, "frozen": "by_id"},
        {"kind": "pretrained", "name": "named", "column": "name", "width": 5, "frozen": "by_name", "type": "text"},
    ]
    schema = {"feature": feature, "task": [{"name": "like", "group": "g", "column": "like"}]}
    save_schema(Schema.model_validate(schema), folder / "schema.toml")
    config = {
        "run": {"dir": "x"},
        "data": {"path": str(folder)},
        "embedding": {"pretrained": {"text": {"dim": 4, "normalise": True}, "speech": {"dim": 2}}},
    }
    return RunConfig.model_validate(config), rows


def opened(config: RunConfig) -> tuple[InputLayout, Reader]:
    from home_dist.schema import load_schema

    schema = load_schema(config.schema_path())
    layout = build_layout(schema, config)
    files = open_files(Path(config.data.path) / "train", schema, layout)
    return layout, Reader(files, schema, layout, batch_size=32, window_rows=40, lanes=1)


def expected(row: dict) -> list[float]:
    known = dict(list(items().items())[:50])
    parts = []
    for vector, width in ((row["speech"], 3), (known.get(row["item"]), 5), (known.get(row["item"]), 5)):
        parts += [*(np.zeros(width) if vector is None else vector), float(vector is None)]
    return parts


@pytest.mark.parametrize("fixed", [True, False])
def test_each_sample_has_its_vectors_and_indicators(tmp_path, fixed):
    config, rows = make(tmp_path, fixed)
    _, reader = opened(config)
    found = torch.cat([b.vectors[b.mask.bool()] for b in reader.epoch(0)])
    wanted = torch.tensor([expected(r) for r in rows])
    torch.testing.assert_close(found, wanted.float())
    assert 0 < wanted[:, 9].sum() < ROWS
    *_, last = reader.epoch(0)
    assert (last.vectors[~last.mask.bool()] == 0).all()


def test_projection_and_normalisation_and_gradient(tmp_path):
    """Against numpy, one sample at a time; missing vectors stay zero and move no weight."""
    config, rows = make(tmp_path)
    layout, reader = opened(config)
    batch = next(iter(reader.epoch(0)))
    vector = FeatureVector(layout, config, 1)
    columns = vector.columns()
    v, _ = vector(batch, None, None, None)
    assert vector.width == v.shape[1] == (2 + 1) + (4 + 1) + (16 + 1)
    for n, row in enumerate(rows[:32]):
        raw = np.array(expected(row))
        for name, part in (("speech", raw[:3]), ("text", raw[4:9]), ("named", raw[10:15])):
            weight = vector.pretrained.projections[name].weight.detach().numpy().astype(np.float64)
            length = np.linalg.norm(part) if name == "text" and part.any() else 1
            projected = weight @ (part / length)
            np.testing.assert_allclose(v[n, columns[name]].detach(), [*projected, float(not part.any())], rtol=1e-4, atol=1e-6)
    v.sum().backward()
    gradient = vector.pretrained.projections["speech"].weight.grad
    present = np.array([r["speech"] for r in rows[:32] if r["speech"] is not None]).sum(0)
    np.testing.assert_allclose(gradient.numpy(), np.stack([present, present]), rtol=1e-4)


def test_a_table_of_half_precision(tmp_path):
    make(tmp_path)
    rows, width = write_frozen(tmp_path / "items", "id", "text", tmp_path / "half", half=True)
    assert (rows, width) == (50, 5)
    full, half = (open_frozen(tmp_path / n, 5, "integer", "feature 'x'", "") for n in ("by_id", "half"))
    assert half.vectors.dtype == np.float16
    np.testing.assert_allclose(half.vectors, full.vectors, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("keys", [["M", "F"], ["en", "de", "fr"], [2**63 - 1, 2**63]])
def test_keys_far_apart_rise(tmp_path, keys):
    column = pa.array(keys, pa.uint64() if isinstance(keys[0], int) else pa.string())
    pq.write_table(pa.table({"id": column, "text": [[float(n)] for n in range(len(keys))]}), tmp_path / "items.parquet")
    write_frozen(tmp_path / "items.parquet", "id", "text", tmp_path / "t")
    kind = "integer" if isinstance(keys[0], int) else "text"
    table = open_frozen(tmp_path / "t", 1, kind, "feature 'x'", "")
    assert table.vectors[table.positions(column)].ravel().tolist() == [*range(len(keys))]
    with pytest.raises(DataError, match=f"its keys are of type {kind}, but .* is needed"):
        open_frozen(tmp_path / "t", 1, "text" if kind == "integer" else "integer", "feature 'x'", "")
    (tmp_path / "t" / "keys.json").unlink()  # as earlier versions wrote it
    assert len(open_frozen(tmp_path / "t", 1, kind, "feature 'x'", "").keys) == len(keys)


def test_a_frozen_table_stays_on_disk_and_is_shared(tmp_path):
    """Of 256 MB a few pages are resident after a look-up, in a read-only mapping that is shared (r--s, not r--p)."""
    rows, width = 1 << 20, 64
    np.save(tmp_path / "keys.npy", np.arange(rows) * 3)
    written = np.lib.format.open_memmap(tmp_path / "vectors.npy", mode="w+", dtype=np.float32, shape=(rows, width))
    written[5] = 1
    del written
    table = open_frozen(tmp_path, width, "integer", "feature 'x'", "")
    assert (table.vectors[table.positions(pa.array([15, 3 * (rows - 1)]))].sum(1) == [width, 0]).all()
    assert table.positions(pa.array([16, None, -1, 3 * rows])).tolist() == [-1] * 4
    with pytest.raises(ValueError, match="read-only"):
        table.vectors[0] = 1
    maps = Path("/proc/self/smaps").read_text()
    ((flags, entry),) = re.findall(rf"^\S+ (\S+) .* {tmp_path}/vectors\.npy\n((?:.*\n)*?)VmFlags", maps, re.MULTILINE)
    assert flags == "r--s"
    held = {key: int(size) for key, size in re.findall(r"(\w+): +(\d+) kB", entry)}
    assert held["Size"] >= rows * width * 4 // 1024
    assert 0 < held["Rss"] < 16 * 1024


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"speech": [1.0, float("nan"), 2.0]}, "column 'speech': NaN, null or infinite within a vector.*row 8"),
        ({"speech": [1.0, None, 2.0]}, "column 'speech': NaN, null or infinite within a vector.*row 8"),
        ({"speech": [1.0, 2.0]}, "column 'speech': lists of 3 numbers, or null, are needed.*row 8"),
    ],
)
def test_bad_vectors_are_refused(tmp_path, change, message):
    config, _ = make(tmp_path, fixed=False, **change)
    with pytest.raises(DataError, match=message):
        list(opened(config)[1].epoch(0))


def test_bad_tables_are_refused(tmp_path):
    config, _ = make(tmp_path)
    twice = {"id": [1, 2, 1], "text": pa.array([[1.0], [2.0], [3.0]], pa.list_(pa.float32()))}
    pq.write_table(pa.table(twice), tmp_path / "twice.parquet")
    with pytest.raises(DataError, match="column 'id': the id of vector 2 stands twice"):
        write_frozen(tmp_path / "twice.parquet", "id", "text", tmp_path / "t")
    with pytest.raises(DataError, match=r"column 'item' is missing; there are: id, text"):
        write_frozen(tmp_path / "twice.parquet", "item", "text", tmp_path / "t")
    with pytest.raises(DataError, match="is there already"):
        write_frozen(tmp_path / "twice.parquet", "id", "text", tmp_path / "by_id")
    with pytest.raises(DataError, match=r"vectors\.npy has type float32\[50, 5\], but float16 or float32 \[50, 6\] is needed"):
        open_frozen(tmp_path / "by_id", 6, "integer", "feature 'text'", "")
    np.save(tmp_path / "by_id" / "keys.npy", np.arange(50)[::-1].copy())
    with pytest.raises(DataError, match=r"by_id: frozen table of feature 'text': keys\.npy does not rise"):
        opened(config)
    (tmp_path / "by_id" / "keys.npy").unlink()
    with pytest.raises(DataError, match=r"by_id: frozen table of feature 'text': keys\.npy or vectors\.npy cannot be read"):
        opened(config)


def test_unknown_names_and_types_are_refused(tmp_path):
    config, _ = make(tmp_path)
    other = config.model_copy(update={"embedding": config.embedding.model_validate({"pretrained": {"video": {}}})})
    with pytest.raises(ConfigError, match=r"embedding\.pretrained\.video: .*; there are: named, speech, text"):
        opened(other)
    text = config.schema_path().read_text()
    config.schema_path().write_text(text.replace('type = "text"', 'type = "integer"'))
    with pytest.raises(
        DataError, match="by_name: frozen table of feature 'named': its keys are of type text, but integer is needed"
    ):
        opened(config)
    (tmp_path / "by_name" / "keys.json").unlink()  # as earlier versions wrote it
    with pytest.raises(DataError, match="column 'name' has type string, but whole numbers are needed"):
        opened(config)


def test_nothing_is_made_where_there_are_no_vectors():
    assert Pretrained(()).widths == []
    assert list(Pretrained(()).parameters()) == []
