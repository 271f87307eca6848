"""Raw ids in Parquet, of every type and pooling, against the files' own rows looked up one by one."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from home_dist.config import RunConfig
from home_dist.data import Reader, open_files
from home_dist.errors import ConfigError, DataError
from home_dist.ids.hashing import hash_integers, hash_texts, rows_of_hashes
from home_dist.network import FeatureVector
from home_dist.schema import InputLayout, Schema, build_layout, load_schema, save_schema

ROWS = 200
CITIES = ["Berlin", "Lyon", "Ōsaka", "a city with a long name"]


def make_schema(**author: object) -> Schema:
    return Schema.model_validate(
        {
            "table": [
                {
                    "name": "city",
                    "rows": 6,
                    "values": {"kind": "vocabulary", "type": "text", "file": "city.parquet", "unknown_rows": 2},
                },
                {"name": "user", "rows": 51, "values": {"kind": "vocabulary", "type": "integer", "file": "user.parquet"}},
                {"name": "tag", "rows": 20, "values": {"kind": "hash", "type": "text", "seed": 5}},
                {"name": "author", "rows": 2000, "values": {"kind": "hash", "type": "integer"}, **author},
                {"name": "topic", "rows": 3000},
            ],
            "feature": [
                {"kind": "id", "name": "city", "column": "city", "table": "city"},
                {"kind": "id", "name": "user", "column": "user", "table": "user"},
                {
                    "kind": "id",
                    "name": "tags",
                    "column": "tags",
                    "table": "tag",
                    "pooling": "weighted",
                    "weights": "tag_weights",
                },
                {"kind": "id", "name": "author", "column": "author", "table": "author"},
                {"kind": "id", "name": "main_topic", "column": "main_topic", "table": "topic"},
                {
                    "kind": "id",
                    "name": "topics",
                    "column": "topics",
                    "table": "topic",
                    "pooling": "weighted",
                    "weights": "topic_weights",
                },
            ],
            "sequence": [{"name": "watched", "events": [{"column": "watched", "table": "author", "target": "author"}]}],
            "task": [{"name": "like", "group": "g", "column": "like"}],
        }
    )


def make_rows() -> list[dict]:
    rng = np.random.default_rng(0)

    def maybe(value):
        return None if rng.random() < 0.1 else value

    rows = []
    for _ in range(ROWS):
        tags = [maybe(f"tag {rng.integers(30)}") for _ in range(rng.integers(0, 4))]
        topics = rng.integers(0, 3000, rng.integers(0, 4)).tolist()
        rows.append(
            {
                "city": maybe(CITIES[rng.integers(4)]),
                "user": maybe(int(rng.integers(-30, 70)) * 10**15),
                "tags": None if not tags and rng.random() < 0.5 else tags,
                "tag_weights": rng.normal(size=len(tags)).tolist(),
                "author": maybe(int(rng.integers(2**40))),
                "main_topic": int(rng.integers(3000)),
                "topics": topics,
                "topic_weights": rng.normal(size=len(topics)).tolist(),
                "watched": [maybe(int(a)) for a in rng.integers(0, 2**40, rng.integers(0, 5))],
                "like": int(rng.integers(2)),
            }
        )
    return rows


TYPES = pa.schema(
    {
        "city": pa.string(),
        "user": pa.int64(),
        "tags": pa.list_(pa.string()),
        "tag_weights": pa.list_(pa.float32()),
        "author": pa.int64(),
        "main_topic": pa.int32(),
        "topics": pa.list_(pa.int32()),
        "topic_weights": pa.list_(pa.float64()),
        "watched": pa.list_(pa.int64()),
        "like": pa.int8(),
    }
)


def write(folder: Path, rows: list[dict], schema: Schema, types: pa.Schema = TYPES) -> RunConfig:
    save_schema(schema, folder / "schema.toml")
    pq.write_table(pa.table({"value": CITIES[:3], "row": pa.array([3, 4, 5])}), folder / "city.parquet")
    users = pa.array([(i - 30) * 10**15 for i in range(50)])
    pq.write_table(pa.table({"value": users, "row": pa.array(range(1, 51))}), folder / "user.parquet")
    (folder / "train").mkdir(exist_ok=True)
    half = len(rows) // 2
    for number, part in enumerate((rows[:half], rows[half:])):
        # Dictionaries differ from one row group to the next.
        table = pa.Table.from_pylist(part, schema=types)
        pq.write_table(table, folder / "train" / f"{number}.parquet", row_group_size=30, store_schema=number == 0)
    return RunConfig.model_validate(
        {
            "run": {"dir": "x"},
            "data": {"path": str(folder), "validation": "", "test": ""},
            "embedding": {"dim": 4, "small_dim": 4, "replicate_rows": 100},
            "sequence": [{"name": "watched"}],
        }
    )


def opened(config: RunConfig) -> tuple[Schema, InputLayout, Reader]:
    schema = load_schema(config.schema_path())
    layout = build_layout(schema, config)
    files = open_files(Path(config.data.path) / "train", schema, layout)
    return schema, layout, Reader(files, schema, layout, batch_size=64, window_rows=70, lanes=1)


def of_city(value):
    if value is None:
        return 0
    if value in CITIES[:3]:
        return 3 + CITIES.index(value)
    return int(rows_of_hashes(hash_texts(pa.array([value]), 0), 3)[0])


def of_user(value):
    return 0 if value is None or not -30 <= value // 10**15 < 20 else value // 10**15 + 31


def of_tag(value):
    return 0 if value is None else int(rows_of_hashes(hash_texts(pa.array([value]), 5), 20)[0])


def of_author(value, rows=2000):
    return 0 if value is None else int(rows_of_hashes(hash_integers(np.array([value]), 0), rows)[0])


def test_every_id_is_that_of_its_row(tmp_path):
    rows = make_rows()
    _, layout, reader = opened(write(tmp_path, rows, make_schema()))
    assert {i.key: i.place for i in layout.features} == {
        "city": "small",
        "user": "small",
        "tags": "small_list",
        "author": "event",
        "main_topic": "weighted_bag",
        "topics": "weighted_bag",
    }
    at = 0
    for batch in reader.epoch(0):
        weighted, lists, events = batch.weighted_bags.to_dict(), batch.small_lists.to_dict(), batch.events.to_dict()
        weights = batch.list_weights.to_dict()
        for place in range(int(batch.mask.sum())):
            row = rows[at]
            at += 1
            assert batch.small[place].tolist() == [of_city(row["city"]), of_user(row["user"])]
            assert lists["tags"].to_dense()[place].tolist() == [of_tag(t) for t in row["tags"] or []]
            torch.testing.assert_close(weights["tags"].to_dense()[place], torch.tensor(row["tag_weights"]))
            assert events["author"].to_dense()[place].tolist() == [of_author(row["author"])]
            assert events["watched/watched"].to_dense()[place].tolist() == [of_author(a) for a in row["watched"]]
            assert weighted["topics"].to_dense()[place].tolist() == row["topics"]
            torch.testing.assert_close(weighted["topics"].to_dense_weights()[place], torch.tensor(row["topic_weights"]))
            assert weighted["main_topic"].to_dense()[place].tolist() == [row["main_topic"]]
            assert weighted["main_topic"].to_dense_weights()[place].tolist() == [1]
    assert at == ROWS


def test_weighted_pooling_is_the_weighted_sum(tmp_path):
    """Of a replicated table, and of one that is looked up vector by vector."""
    rows = make_rows()
    schema = make_schema()
    topics = next(f for f in schema.feature if f.name == "topics")
    shared = topics.model_copy(update={"pooling": "mean", "weights": None, "name": "topics_mean"})  # two poolings: no bag
    config = write(tmp_path, rows, schema.model_copy(update={"feature": (*schema.feature, shared)}))
    _, layout, reader = opened(config)
    vector = FeatureVector(layout, config, 1)
    columns = vector.columns()
    tables = {key: torch.randn(3000, 4) for key in ("topics", "topics_mean", "main_topic", "author", "watched/watched")}
    at = 0
    for batch in reader.epoch(0):
        events = {k: j.__class__(values=tables[k][j.values()], lengths=j.lengths()) for k, j in batch.events.to_dict().items()}
        v, _ = vector(batch, None, None, events)
        for place in range(int(batch.mask.sum())):
            row = rows[at]
            at += 1
            weight = torch.tensor(row["topic_weights"], dtype=torch.float64)
            expected = (tables["topics"][row["topics"]].double() * weight[:, None]).sum(0)
            torch.testing.assert_close(v[place, columns["topics"]].double(), expected, rtol=1e-5, atol=1e-5)
            mean = tables["topics_mean"][row["topics"]].sum(0) / max(1, len(row["topics"]))
            torch.testing.assert_close(v[place, columns["topics_mean"]], mean)
            tag = vector.replicated.weights["4"]
            item = next(i for i in layout.features if i.key == "tags")
            first = vector.replicated._offset["tag"]
            ids = [first + of_tag(t) for t in row["tags"] or []]
            expected = sum((tag[i] * w for i, w in zip(ids, row["tag_weights"], strict=True)), torch.zeros(item.table.dim))
            torch.testing.assert_close(v[place, columns["tags"]], expected)
    assert at == ROWS


def test_a_cut_tail_is_read_as_missing_and_a_hash_spreads_over_what_is_kept(tmp_path):
    rows = make_rows()
    config = write(tmp_path, rows, make_schema())
    kept = {"city": {"keep_rows": 5}, "author": {"keep_rows": 1500}}
    config = config.model_copy(
        update={"embedding": config.embedding.model_validate({**config.embedding.model_dump(), "tables": kept})}
    )
    _, _, reader = opened(config)
    batch = next(iter(reader.epoch(0)))
    expected = [c if (c := of_city(r["city"])) < 5 else 0 for r in rows[:64]]
    assert batch.small[:, 0].tolist() == expected
    assert 0 < expected.count(0) < 64
    assert batch.events["author"].values().tolist() == [of_author(r["author"], 1500) for r in rows[:64]]


@pytest.mark.parametrize(
    ("column", "kind", "message"),
    [
        ("city", pa.int64(), r"0\.parquet: column 'city' has type int64, but texts are needed"),
        ("user", pa.string(), r"0\.parquet: column 'user' has type string, but whole numbers are needed"),
        ("tags", pa.list_(pa.int32()), r"0\.parquet: column 'tags' has type list<.*int32>, but lists of texts are needed"),
        ("tags", pa.string(), r"0\.parquet: column 'tags' has type string, but lists of texts are needed"),
        ("watched", pa.list_(pa.string()), r"column 'watched' has type list<.*string>, but lists of whole numbers are needed"),
        ("topic_weights", pa.list_(pa.string()), r"column 'topic_weights' has type list<.*>, but lists of numbers are needed"),
        ("topic_weights", None, r"0\.parquet: column 'topic_weights' is missing; the schema needs it"),
    ],
)
def test_a_column_of_another_type_is_refused_before_anything_is_read(tmp_path, column, kind, message):
    position = TYPES.get_field_index(column)
    types = TYPES.remove(position) if kind is None else TYPES.set(position, pa.field(column, kind))
    rows = [{k: v if k != column else None for k, v in r.items()} for r in make_rows()[:4]]
    config = write(tmp_path, rows, make_schema(), types)
    with pytest.raises(DataError, match=message):
        opened(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"topic_weights": [1.0] * 9}, r"column 'topic_weights': its lists differ in length from those of 'topics'.*row 3 of"),
        (
            {"topics": [1], "topic_weights": [float("nan")]},
            r"column 'topic_weights': a weight is NaN, null or infinite.*row 3 of",
        ),
        ({"topics": [1], "topic_weights": [None]}, r"column 'topic_weights': a weight is NaN, null or infinite.*row 3 of"),
        ({"topics": [1, 3000], "topic_weights": [1.0, 1.0]}, "id 3000 is outside of table 'topic'"),
    ],
)
def test_bad_rows_are_refused(tmp_path, change, message):
    rows = make_rows()
    rows[3] |= change
    _, _, reader = opened(write(tmp_path, rows, make_schema()))
    with pytest.raises(DataError, match=message):
        list(reader.epoch(0))


def test_schemas_that_contradict_themselves_are_refused(tmp_path):
    config = write(tmp_path, make_rows(), make_schema())
    path = config.schema_path()
    text = path.read_text()
    for before, after, message in (
        ('weights = "tag_weights"', "", "pooling 'weighted' and a column of weights go together"),
        ("rows = 2000", "rows = 1", "rows must be at least 2"),
        ('kind = "hash"', 'kind = "hsah"', "kind: must be one of 'vocabulary', 'hash'"),
    ):
        assert before in text
        path.write_text(text.replace(before, after))
        with pytest.raises(ConfigError, match=message):
            load_schema(path)
