"""The generated data set of tests/factory.py with raw ids in place of rows."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from home_dist.prepare.frozen import write_frozen
from home_dist.schema import PretrainedFeature, load_schema, save_schema
from home_dist.schema.values import HashValues, VocabularyValues
from tests.factory import make_data


def raw_data(folder):
    """tests/factory.py's data, whose users are texts with a vocabulary, videos hashed ids, and tags rows with a vocabulary that
    is told by its file's name alone."""
    make_data(folder, rows=600, row_group=100)
    return with_raw_ids(folder)


def with_raw_ids(folder):
    """The same of data that is there."""
    rng = np.random.default_rng(5)
    texts = [f"üser-{n}" for n in rng.permutation(3000)]
    (folder / "vocabularies").mkdir()
    kept = rng.permutation(2400)
    known = {"value": pa.array([texts[n] for n in kept]), "row": pa.array(np.arange(len(kept)) + 6)}
    pq.write_table(pa.table(known), folder / "vocabularies" / "user.parquet")
    tags = {"value": pa.array(rng.permutation(10**6)[:1499] - 500), "row": pa.array(rng.permutation(1499) + 1)}
    pq.write_table(pa.table(tags), folder / "vocabularies" / "tag.parquet")
    _change_rows(folder, lambda table: {"user": pa.array([texts[n] for n in table["user"].to_pylist()])})
    schema = load_schema(folder / "schema.toml")
    values = {
        "user": VocabularyValues(type="text", file="vocabularies/user.parquet", unknown_rows=5),
        "video": HashValues(type="integer", seed=3),
    }
    tables = tuple(t.model_copy(update={"values": values.get(t.name)}) for t in schema.table)
    save_schema(schema.model_copy(update={"table": tables}), folder / "schema.toml")
    return folder


def integer_users(folder):
    """The users of `raw_data` as integers of 64 bits, also negative ones, with a vocabulary of the schema."""

    def numbers(texts):
        return pa.array([n * 2**40 - 2**50 for n in (int(t.removeprefix("üser-")) for t in texts.to_pylist())])

    path = folder / "vocabularies" / "user.parquet"
    known = pq.read_table(path)
    pq.write_table(known.set_column(0, "value", numbers(known["value"])), path)
    _change_rows(folder, lambda table: {"user": numbers(table["user"])})
    schema = load_schema(folder / "schema.toml")
    integers = VocabularyValues(type="integer", file="vocabularies/user.parquet", unknown_rows=5)
    tables = tuple(t.model_copy(update={"values": integers}) if t.name == "user" else t for t in schema.table)
    save_schema(schema.model_copy(update={"table": tables}), folder / "schema.toml")
    return folder


def with_pretrained(folder):
    """Data with vectors of items: in a column, by integers of fp32, and by texts of fp16. Some are null, some in no table."""
    rng = np.random.default_rng(9)
    items = rng.permutation(2**20)[:80] - 2**19
    vectors = pa.array(rng.normal(size=(60, 5)).astype(np.float32).tolist(), pa.list_(pa.float32()))
    (folder / "items").mkdir()
    told = {"id": pa.array(items[:60]), "name": pa.array([f"item {n}" for n in items[:60]]), "text": vectors}
    pq.write_table(pa.table(told), folder / "items" / "0.parquet")
    write_frozen(folder / "items", "id", "text", folder / "by_id")
    write_frozen(folder / "items", "name", "text", folder / "by_name", half=True)

    def columns(table):
        drawn, null = items[rng.integers(0, len(items), len(table))], rng.random(len(table)) < 0.1
        speech = [None if n else v.tolist() for v, n in zip(rng.normal(size=(len(table), 3)), null, strict=True)]
        texts = pa.array([f"item {n}" for n in drawn], mask=null)
        return {"speech": pa.array(speech, pa.list_(pa.float32())), "item": pa.array(drawn, mask=null), "item_name": texts}

    _change_rows(folder, columns)
    schema = load_schema(folder / "schema.toml")
    by_name = {"width": 5, "frozen": "by_name", "type": "text"}
    features = (
        PretrainedFeature(name="speech", column="speech", width=3),
        PretrainedFeature(name="text", column="item", width=5, frozen="by_id"),
        PretrainedFeature(name="named", column="item_name", **by_name),
    )
    save_schema(schema.model_copy(update={"feature": (*schema.feature, *features)}), folder / "schema.toml")
    return folder


def with_weights(folder):
    """Data whose tags are a weighted list."""

    def columns(table):
        tags = table["tags"].combine_chunks()
        weights = pa.ListArray.from_arrays(tags.offsets, pa.array(np.cos(np.arange(len(tags.values))).astype(np.float32)))
        return {"tag_weights": weights}

    _change_rows(folder, columns)
    schema = load_schema(folder / "schema.toml")
    weighted = {"pooling": "weighted", "weights": "tag_weights"}
    features = tuple(f.model_copy(update=weighted) if f.name == "tags" else f for f in schema.feature)
    save_schema(schema.model_copy(update={"feature": features}), folder / "schema.toml")
    return folder


def _change_rows(folder, columns):
    """columns: of a table, new ones by name, in place of those of the same name."""
    for path in sorted(folder.glob("*/part*.parquet")):
        table = pq.read_table(path)
        changed = pa.table(dict(zip(table.column_names, table.columns, strict=True)) | columns(table))
        pq.write_table(changed, path, row_group_size=100, write_page_checksum=True)
