"""Configurations of TorchEasyRec and FuxiCTR as drafts: what becomes of columns, what is left out, data fitted by them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from home_dist.errors import ConfigError
from home_dist.prepare.convert import convert
from home_dist.prepare.convert.text_proto import read
from home_dist.prepare.fit.data_fit import fit_data
from home_dist.prepare.fit.draft import load_draft
from home_dist.schema import load_schema

PIPELINE = """
# a comment
train_input_path: "train/*.parquet"
data_config { batch_size: 8192  label_fields: "clk" label_fields: 'buy' }
feature_configs { id_feature { feature_name: "user_id" expression: "user:user_id" num_buckets: 50 embedding_dim: 16 } }
feature_configs: { id_feature: { feature_name: "item" expression: "item:item_id" hash_bucket_size: 30
                                 embedding_name: "item_emb" embedding_dim: 16 } }
feature_configs { id_feature { feature_name: "tags" expression: "item:tags" vocab_list: ["a", "b"] pooling: "mean" } }
feature_configs { raw_feature { feature_name: "price" expression: "item:price" boundaries: [1.5, 2, 3e0] } }
feature_configs { raw_feature { feature_name: "vector" expression: "item:vector" value_dim: 4 normalizer: "method=zscore" } }
feature_configs { combo_feature { feature_name: "os_cate" expression: "user:os" expression: "item:cate" } }
feature_configs { sequence_feature { sequence_name: "clicks" sequence_length: 100
    features { id_feature { feature_name: "item" expression: "item:item_id" hash_bucket_size: 30 } }
    features { raw_feature { feature_name: "gap" expression: "item:gap" } } } }
model_config { mmoe {
    task_towers { tower_name: "ctr" label_name: "clk" losses { binary_cross_entropy {} } }
    task_towers { tower_name: "stay" label_name: "seconds" losses { l2_loss {} } } } }
"""

DATASETS = """
Base: {min_categr_count: 1}
taobao:
    data_format: csv
    min_categr_count: 3
    feature_cols:
        - {name: [user, item], active: True, dtype: str, type: categorical}
        - {name: price, active: true, dtype: float, type: numeric}
        - {name: gone, active: false, dtype: str, type: categorical}
        - {name: hour, dtype: str, type: categorical, preprocess: convert_hour}
        - {name: clicked, dtype: str, type: sequence, splitter: ^, max_len: 5, share_embedding: item, feature_encoder: null}
        - {name: tags, dtype: str, type: sequence, splitter: ^, feature_encoder: "layers.MaskedSumPooling()"}
    label_col: {name: click, dtype: float}
"""


def written(tmp_path: Path, name: str, text: str, dataset: str | None = None):
    (tmp_path / name).write_text(text)
    conversion = convert(tmp_path / name, dataset)
    conversion.write(tmp_path / "draft.toml")
    return load_draft(tmp_path / "draft.toml"), conversion.notes


def test_torcheasyrecs_features_tables_and_tasks(tmp_path):
    draft, notes = written(tmp_path, "pipeline.config", PIPELINE)
    features = {f.name: f for f in draft.feature}
    assert set(features) == {"user_id", "item", "tags", "price", "vector"}
    assert (features["item"].column, features["item"].table, features["tags"].pooling) == ("item_id", "item_emb", "mean")
    assert features["price"].boundaries == (1.5, 2.0, 3.0)
    assert (features["vector"].kind, features["vector"].width) == ("dense", 4)
    tables = {t.name: t for t in draft.table}
    assert (tables["user_id"].values.kind, tables["user_id"].values.type, tables["user_id"].values.max_rows) == (
        "vocabulary",
        "integer",
        51,
    )
    assert (tables["item_emb"].rows, tables["item_emb"].values.kind) == (31, "hash")
    [sequence] = draft.sequence
    assert [(e.column, e.table, e.target) for e in sequence.events] == [("clicks__item", "item_emb", "item")]
    assert [(t.name, t.column, t.kind) for t in draft.task] == [("ctr", "clk", "binary"), ("stay", "seconds", "regression")]
    told = "\n".join(notes)
    for part in ("combo_feature os_cate", "normalizer 'method=zscore'", "raw_feature gap", "vocabulary is fitted"):
        assert part in told


def test_names_that_home_dist_does_not_take_are_changed_and_told(tmp_path):
    text = PIPELINE.replace('"price"', '"item price"', 1).replace('"item_emb"', '"1st-emb"')
    draft, notes = written(tmp_path, "pipeline.config", text)
    features = {f.name: f for f in draft.feature}
    assert features["item_price"].column == "price"
    assert features["item"].table == "_1st_emb" == draft.sequence[0].events[0].table
    assert "'item price': its name becomes 'item_price'" in notes


def test_labels_without_towers_are_tasks(tmp_path):
    draft, _ = written(tmp_path, "pipeline.config", PIPELINE.partition("model_config")[0])
    assert [t.name for t in draft.task] == ["clk", "buy"]


def test_fuxictrs_features_tables_and_tasks(tmp_path):
    draft, notes = written(tmp_path, "dataset_config.yaml", DATASETS)
    features = {f.name: f for f in draft.feature}
    assert set(features) == {"user", "item", "price", "hour", "tags"}
    assert features["tags"].pooling == "sum"
    assert {t.name: t.values.min_count for t in draft.table} == {"user": 3, "item": 3, "hour": 3, "tags": 3}
    assert [(e.column, e.table, e.target) for e in draft.sequence[0].events] == [("clicked", "item", "item")]
    assert [t.column for t in draft.task] == ["click"]
    assert any("preprocess 'convert_hour'" in note for note in notes)


def test_a_converted_draft_fits_data(tmp_path):
    written(tmp_path, "dataset_config.yaml", DATASETS)
    rng = np.random.default_rng(0)
    users, items = rng.integers(20, size=300), rng.integers(40, size=300)
    lists = [[f"i{j}" for j in rng.integers(40, size=n)] for n in rng.integers(4, size=300)]
    columns = {
        "user": [f"u{u}" for u in users],
        "item": [f"i{i}" for i in items],
        "price": rng.random(300),
        "hour": [str(h) for h in rng.integers(24, size=300)],
        "clicked": lists,
        "tags": lists,
        "click": rng.integers(2, size=300).astype(float),
    }
    for split in ("train", "validation", "test"):
        (tmp_path / "data" / split).mkdir(parents=True)
        pq.write_table(pa.table(columns), tmp_path / "data" / split / "part.parquet")
    fit_data(tmp_path / "draft.toml", tmp_path / "data", lambda line: None)
    schema = load_schema(tmp_path / "data" / "schema.toml")
    often = sum(int((users == u).sum() >= 3) for u in range(20))
    assert schema.table_rows()["user"] == often + 1


@pytest.mark.parametrize(
    ("name", "text", "dataset", "message"),
    [
        ("p.config", "feature_configs { id_feature {", None, r"p\.config, line 1: the file ends within a message"),
        ("p.config", 'a: "open', None, "line 1: a text is not closed"),
        ("p.config", "data_config { }", None, "no feature in it that can be converted"),
        ("p.config", PIPELINE, "x", "names an entry of FuxiCTR"),
        ("d.yaml", "a: [", None, "not valid YAML"),
        ("d.yaml", DATASETS, "other", "there are: taobao"),
        ("d.yaml", "[]", None, "there are: none"),
        ("d.yaml", "a: {feature_cols: [x]}", None, r"an entry is not as FuxiCTR reads it \(AttributeError"),
        ("d.yaml", "a: {feature_cols: [], label_col: {dtype: float}}", None, r"not as FuxiCTR reads it \(KeyError: 'name'\)"),
        ("p.config", "feature_configs { id_feature: 3 }", None, "not as TorchEasyRec reads it"),
        ("p.config", PIPELINE.replace("label_name", "label"), None, r"a task has no column \(name '"),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path, name, text, dataset, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        convert(tmp_path / name, dataset).write(tmp_path / "draft.toml")
    assert not (tmp_path / "draft.toml").exists()


NAMES = st.from_regex(r"[a-z_]{1,6}", fullmatch=True)
TEXTS = st.text(st.characters(codec="ascii"), max_size=8)
VALUES = st.one_of(st.integers(-(10**9), 10**9), st.booleans(), TEXTS)
MESSAGES = st.recursive(
    st.dictionaries(NAMES, st.lists(VALUES, min_size=1, max_size=3), max_size=3),
    lambda inner: st.dictionaries(NAMES, st.lists(inner, min_size=1, max_size=2), max_size=3),
    max_leaves=6,
)


def as_text(message: dict) -> str:
    lines = []
    for name, values in message.items():
        for value in values:
            if isinstance(value, dict):
                lines.append(f"{name} {{\n{as_text(value)}\n}}")
            elif isinstance(value, str):
                quoted = "".join(f"\\{ord(c):03o}" if c in '"\\' or not c.isprintable() else c for c in value)
                lines.append(f'{name}: "{quoted}"')
            else:
                lines.append(f"{name}: {str(value).lower() if isinstance(value, bool) else value}")
    return "\n".join(lines)


@given(MESSAGES)
def test_messages_are_read_as_they_were_written(message):
    assert read(as_text(message), Path("x")) == message
