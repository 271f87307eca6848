"""The generated data set of tests/factory.py with raw ids in place of rows."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from home_dist.schema import load_schema, save_schema
from home_dist.schema.values import HashValues, VocabularyValues
from tests.factory import make_data


def raw_data(folder):
    """tests/factory.py's data, whose users are texts with a vocabulary, videos hashed ids, and tags rows with a vocabulary that
    is told by its file's name alone."""
    make_data(folder, rows=600, row_group=100)
    rng = np.random.default_rng(5)
    texts = [f"üser-{n}" for n in rng.permutation(3000)]
    (folder / "vocabularies").mkdir()
    kept = rng.permutation(2400)
    known = {"value": pa.array([texts[n] for n in kept]), "row": pa.array(np.arange(len(kept)) + 6)}
    pq.write_table(pa.table(known), folder / "vocabularies" / "user.parquet")
    tags = {"value": pa.array(rng.permutation(10**6)[:1499] - 500), "row": pa.array(rng.permutation(1499) + 1)}
    pq.write_table(pa.table(tags), folder / "vocabularies" / "tag.parquet")
    for path in sorted(folder.glob("*/part*.parquet")):
        table = pq.read_table(path)
        users = pa.array([texts[n] for n in table["user"].to_pylist()])
        table = table.set_column(table.column_names.index("user"), "user", users)
        pq.write_table(table, path, row_group_size=100, write_page_checksum=True)
    schema = load_schema(folder / "schema.toml")
    values = {
        "user": VocabularyValues(type="text", file="vocabularies/user.parquet", unknown_rows=5),
        "video": HashValues(type="integer", seed=3),
    }
    tables = tuple(t.model_copy(update={"values": values.get(t.name)}) for t in schema.table)
    save_schema(schema.model_copy(update={"table": tables}), folder / "schema.toml")
    return folder
