"""`home-dist prepare fit` against Counter and numpy over the same files, and what a reader makes of it."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from home_dist.cli import app
from home_dist.config import RunConfig
from home_dist.data import Reader, open_files
from home_dist.errors import ConfigError, DataError
from home_dist.prepare.fit import fit_data
from home_dist.schema import Schema, build_layout, load_schema
from tests.ranks import REPOSITORY

DRAFT = """
table = [
  { name = "city", values = { kind = "vocabulary", type = "text", min_count = 3, unknown_rows = 2 } },
  { name = "author", values = { kind = "vocabulary", type = "integer", max_rows = 20 } },
  { name = "tag", rows = 50, values = { kind = "hash", type = "text", seed = 4 } },
]
feature = [
  { kind = "id", name = "city", column = "city", table = "city" },
  { kind = "id", name = "author", column = "author", table = "author" },
  { kind = "id", name = "tags", column = "tags", table = "tag", pooling = "sum" },
  { kind = "statistic", name = "plays", column = "plays", buckets = { by = "logarithmic", count = 5 } },
  { kind = "statistic", name = "rate", column = "rate" },
  { kind = "statistic", name = "age", column = "age", boundaries = [18, 30.5] },
  { kind = "dense", name = "size", column = "size" },
  { kind = "dense", name = "vector", column = "vector", width = 2 },
  { kind = "dense", name = "raw", column = "size", standardise = false },
]
sequence = [{ name = "watched", events = [{ column = "watched", table = "author", target = "author" }] }]
task = [
  { name = "like", group = "g", column = "like", weight_column = "known" },
  { name = "share", group = "g", column = "share", base_rate = 0.25 },
]
"""


def rows(count: int, seed: int) -> dict[str, list]:
    rng = np.random.default_rng(seed)

    def maybe(values):
        return [None if rng.random() < 0.2 else v for v in values]

    return {
        "city": maybe(rng.choice(["a", "b", "c", "d", "e"], count, p=[0.5, 0.3, 0.15, 0.04, 0.01]).tolist()),
        "author": maybe((rng.zipf(1.5, count) % 1000).tolist()),
        "watched": [(rng.zipf(1.5, n) % 1000).tolist() for n in rng.integers(0, 4, count)],
        "tags": [[f"t{i}" for i in rng.integers(0, 9, n)] for n in rng.integers(0, 3, count)],
        "plays": maybe(np.round(rng.lognormal(2, 2, count)).tolist()),
        "rate": maybe(rng.normal(0.2, 3, count).tolist()),
        "age": maybe(rng.integers(10, 40, count).tolist()),
        "size": rng.normal(1000, 5, count).tolist(),
        "vector": rng.normal([0, 50], [1, 9], (count, 2)).tolist(),
        "like": rng.integers(0, 2, count).tolist(),
        "known": (rng.random(count) < 0.5).astype(float).tolist(),
        "share": rng.integers(0, 2, count).tolist(),
    }


def write(folder: Path, seed: int = 0) -> dict[str, list]:
    """Returns the training part's rows."""
    parts = [rows(120, seed), rows(80, seed + 1)]
    for split, tables in (("train", parts), ("validation", [rows(50, seed + 2)])):
        (folder / split).mkdir(parents=True, exist_ok=True)
        for number, columns in enumerate(tables):
            pq.write_table(pa.table(columns), folder / split / f"{number}.parquet", row_group_size=50)
    return {name: parts[0][name] + parts[1][name] for name in parts[0]}


def fitted(folder: Path, draft: str = DRAFT) -> Schema:
    (folder / "draft.toml").write_text(draft)
    return fit_data(folder / "draft.toml", folder, lambda text: None)


def test_what_is_fitted_is_that_of_the_training_part(tmp_path):
    whole = write(tmp_path)
    schema = fitted(tmp_path)
    assert schema == load_schema(tmp_path / "schema.toml")
    features, tables = {f.name: f for f in schema.feature}, {t.name: t for t in schema.table}

    cities = Counter(c for c in whole["city"] if c is not None)
    kept = sorted((c for c, n in cities.items() if n >= 3), key=lambda c: (-cities[c], c))
    found = pq.read_table(tmp_path / "vocabularies" / "city.parquet").to_pylist()
    assert found == [{"value": c, "row": 3 + i, "count": cities[c]} for i, c in enumerate(kept)]
    assert tables["city"].rows == 3 + len(kept)
    authors = Counter([a for a in whole["author"] if a is not None] + [a for w in whole["watched"] for a in w])
    kept = sorted((a for a, n in authors.items() if n >= 2), key=lambda a: (-authors[a], a))[:19]
    assert pq.read_table(tmp_path / "vocabularies" / "author.parquet")["value"].to_pylist() == kept
    assert tables["author"].rows == 20
    assert tables["tag"].rows == 50

    rate = np.array([r for r in whole["rate"] if r is not None])
    expected = np.quantile(rate, np.linspace(0, 1, 21)[1:-1], method="inverted_cdf")
    assert features["rate"].boundaries == tuple(expected)
    assert (features["rate"].mean, features["rate"].std) == pytest.approx((rate.mean(), rate.std()))
    plays = np.array([p for p in whole["plays"] if p is not None])
    low = plays[plays > 0].min()
    edges = np.geomspace(low, plays.max(), 6)[1:-1]
    assert features["plays"].boundaries == pytest.approx(([low] if plays.min() <= 0 else []) + edges.tolist())
    assert features["age"].boundaries == (18, 30.5)
    size, vector = np.array(whole["size"]), np.array(whole["vector"])
    assert (features["size"].mean, features["size"].std) == pytest.approx((size.mean(), size.std()))
    assert features["vector"].mean == pytest.approx(vector.mean(0).tolist())
    assert features["vector"].std == pytest.approx(vector.std(0).tolist())
    assert (features["raw"].mean, features["raw"].std) == (0, 1)
    like, known = np.array(whole["like"]), np.array(whole["known"])
    assert [t.base_rate for t in schema.task] == pytest.approx([(like * known).sum() / known.sum(), 0.25])


_SECONDS = 'group = "g", column = "seconds", weight_column = "known"'
NUMBERS = f"""
task = [
  {{ name = "like", group = "g", column = "like" }},
  {{ {_SECONDS}, name = "seconds", kind = "regression", duration = "length" }},
  {{ {_SECONDS}, name = "level", kind = "ordinal", thresholds = 5 }},
  {{ {_SECONDS}, name = "steps", kind = "ordinal", thresholds = [1, 2.5] }},
  {{ {_SECONDS}, name = "part", kind = "duration_quantile", duration = "length", duration_groups = 2 }},
  {{ name = "stars", group = "g", column = "stars", kind = "multiclass", classes = 3 }},
]
"""


def numbered(folder: Path) -> dict[str, np.ndarray]:
    """As `write`, with watch times, which are bad where unknown, and stars. Returns the training part's columns."""
    write(folder)
    read = []
    for number, path in enumerate(sorted(folder.glob("*/*.parquet"))):
        rng, table = np.random.default_rng(number), pq.read_table(path)
        known = table["known"].to_numpy() > 0
        length = np.where(known, rng.integers(1, 20, len(table)), 0).astype(float)
        columns = {"seconds": np.where(known, np.float32(rng.exponential(3, len(table))), -1.0), "length": length}
        columns["stars"] = rng.integers(0, 3, len(table))
        for name, values in columns.items():
            table = table.append_column(name, pa.array(values))
        pq.write_table(table, path)
        if path.parent.name == "train":
            read.append({**columns, "known": known})
    return {name: np.concatenate([r[name] for r in read]) for name in read[0]}


def test_labels_of_every_kind_are_fitted(tmp_path):
    rows_read = numbered(tmp_path)
    schema = fitted(tmp_path, DRAFT[: DRAFT.index("task = [")] + NUMBERS)
    assert schema == load_schema(tmp_path / "schema.toml")
    tasks = {t.name: t for t in schema.task}
    known = rows_read["known"]
    y, length = rows_read["seconds"][known], rows_read["length"][known]
    assert tasks["like"].base_rate is not None
    for name in ("seconds", "level", "part"):
        facts = tasks[name].values
        assert (facts.mean, facts.std, facts.log_mean, facts.log_std) == pytest.approx(
            (y.mean(), y.std(), np.log1p(y).mean(), np.log1p(y).std()), rel=1e-7
        )
    wanted = np.quantile(y, 0.999 * np.arange(1, 6) / 5, method="inverted_cdf")
    assert np.float32(tasks["level"].values.thresholds).tolist() == np.float32(wanted).tolist()
    assert tasks["steps"].values.thresholds == (1, 2.5)
    assert tasks["steps"].values.above == pytest.approx([(y > 1).mean(), (y > 2.5).mean()])
    boundary = tasks["part"].values.duration_boundaries
    assert boundary == (np.quantile(length, 0.5, method="inverted_cdf"),)
    points = np.linspace(0, 1, 101)
    for quantiles, own in zip(tasks["part"].values.quantiles, (length < boundary[0], length >= boundary[0]), strict=True):
        assert np.float32(quantiles).tolist() == np.float32(np.quantile(y[own], points, method="inverted_cdf")).tolist()
    stars = rows_read["stars"]
    assert tasks["stars"].values.shares == pytest.approx(np.bincount(stars) / len(stars), abs=1e-8)


@pytest.mark.parametrize(
    ("column_name", "value", "message"),
    [
        ("seconds", -2.0, r"1\.parquet: column 'seconds': label -2 is negative or not finite"),
        ("seconds", float("inf"), r"column 'seconds': label inf is not finite"),
        ("length", 0.0, r"column 'length': a duration is null, not finite or not above 0"),
        ("stars", 3, r"column 'stars': label 3 is no whole number from 0 to 2"),
    ],
)
def test_labels_that_cannot_be_are_refused(tmp_path, column_name, value, message):
    numbered(tmp_path)
    table = pq.read_table(tmp_path / "train/1.parquet")
    row = int(np.flatnonzero(table["known"].to_numpy() > 0)[0])
    values = table[column_name].to_numpy().copy()
    values[row] = value
    pq.write_table(
        table.set_column(table.column_names.index(column_name), column_name, pa.array(values)), tmp_path / "train/1.parquet"
    )
    with pytest.raises(DataError, match=message):
        fitted(tmp_path, DRAFT[: DRAFT.index("task = [")] + NUMBERS)
    assert not (tmp_path / "schema.toml").exists()


def test_thresholds_of_a_draft_are_checked(tmp_path):
    write(tmp_path)
    draft = DRAFT[: DRAFT.index("task = [")] + NUMBERS
    for change, says in (
        (("thresholds = 5", "thresholds = [2, 1]"), "task 'level': thresholds must increase strictly"),
        (("classes = 3", "classes = 3, thresholds = 4"), "task 'stars': thresholds is for labels that are numbers"),
    ):
        with pytest.raises(ConfigError, match=says):
            fitted(tmp_path, draft.replace(*change))


def test_other_parts_change_nothing(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b")
    pq.write_table(pa.table(rows(500, seed=99)), tmp_path / "b" / "validation" / "0.parquet")
    assert fitted(tmp_path / "a") == fitted(tmp_path / "b")


def test_a_reader_applies_it(tmp_path):
    write(tmp_path)
    schema = fitted(tmp_path)
    raw = pq.read_table(tmp_path / "validation").to_pylist()
    config = RunConfig.model_validate({"run": {"dir": "x"}, "data": {"path": str(tmp_path)}, "sequence": [{"name": "watched"}]})
    layout = build_layout(schema, config)
    reader = Reader(open_files(tmp_path / "validation", schema, layout), schema, layout, batch_size=50)
    (batch,) = reader.epoch(0)
    small = {i.key: batch.small[:, n].tolist() for n, i in enumerate(layout.at("small"))}
    vocabulary = pq.read_table(tmp_path / "vocabularies" / "author.parquet").to_pydict()
    row_of = dict(zip(vocabulary["value"], vocabulary["row"], strict=True))
    assert small["author"] == [row_of.get(r["author"], 0) for r in raw]
    features = {f.name: f for f in schema.feature}
    for name in ("plays", "rate", "age"):
        for row, bucket in zip(raw, small[name], strict=True):
            held = features[name].values_of(bucket)
            assert (held is None) == (row[name] is None)
            if held is not None:
                assert held[0] <= row[name] < held[1]
    at = len(("plays", "rate", "age"))
    whole = pq.read_table(tmp_path / "train").to_pydict()
    vector, training = np.array([r["vector"] for r in raw]), np.array(whole["vector"])
    standardised = (vector - training.mean(0)) / training.std(0)
    np.testing.assert_allclose(batch.dense[:, at + 1 : at + 3].numpy(), standardised, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("before", "after", "error", "message"),
    [
        (
            'type = "integer", max_rows = 20',
            'type = "text"',
            DataError,
            r"0\.parquet: column 'author' has type int64, but texts are needed\. Correct the draft's entry",
        ),
        (
            'column = "size" }',
            'column = "sise" }',
            DataError,
            r"0\.parquet: column 'sise' is missing; the draft needs it\. The file has: age, ",
        ),
        (
            'column = "vector", width = 2',
            'column = "vector", width = 3',
            DataError,
            "column 'vector'.*lists of 3 numbers are needed",
        ),
        ('name = "tag", rows = 50', 'name = "tag"', ConfigError, "table 'tag': rows are missing"),
        (
            'name = "city", values',
            'name = "city", rows = 9, values',
            ConfigError,
            "table 'city': rows follow from its vocabulary",
        ),
        ('name = "size", column', 'name = "age", column', ConfigError, "feature 'age' is declared twice"),
        ("boundaries = [18, 30.5]", "boundaries = [30.5, 18]", ConfigError, "boundaries must increase strictly"),
        (
            'by = "logarithmic"',
            'by = "log"',
            ConfigError,
            "buckets.by: Input should be 'quantile', 'equal_width' or 'logarithmic'",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path, before, after, error, message):
    write(tmp_path)
    assert DRAFT.count(before) == 1
    with pytest.raises(error, match=message):
        fitted(tmp_path, DRAFT.replace(before, after))
    assert not (tmp_path / "schema.toml").exists()


def test_a_value_far_beyond_all_others_is_told(tmp_path):
    whole = write(tmp_path)
    told = []
    (tmp_path / "draft.toml").write_text(DRAFT)
    path = sorted((tmp_path / "train").iterdir())[0]
    table = pq.read_table(path)
    spoiled = table.column("size").to_pylist()
    spoiled[3] = 1e30
    pq.write_table(table.set_column(table.column_names.index("size"), "size", pa.array(spoiled, pa.float64())), path)
    fit_data(tmp_path / "draft.toml", tmp_path, told.append)
    warnings = [line for line in told if line.startswith("WARNING")]
    assert len(whole["size"]) > 3
    assert warnings
    assert all("column 'size' holds 1e+30, where 99.9 % of the values stay below" in line for line in warnings)


def test_buckets_can_be_read_back(tmp_path, capsys):
    write(tmp_path)
    fitted(tmp_path)
    app(["buckets", str(tmp_path), "age"], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=1)[1] for line in lines[1:]] == [
        "missing",
        "-inf <= value < 18.0",
        "18.0 <= value < 30.5",
        "30.5 <= value < inf",
    ]
    with pytest.raises(DataError, match="is there already"):
        fitted(tmp_path)


def changed(folder: Path, column: str, values: pa.Array) -> None:
    """Writes the second training file with another column."""
    path = folder / "train" / "1.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.schema.get_field_index(column), column, values), path)


def column(folder: Path, name: str) -> pa.Array:
    return pq.read_table(folder / "train" / "1.parquet").column(name).combine_chunks()


def test_types_are_those_of_the_reader(tmp_path):
    """Decimals, fixed-size lists, floats of whole numbers and partitions fit like the plain types."""
    write(tmp_path / "plain")
    write(tmp_path / "other")
    other = tmp_path / "other"
    changed(other, "author", column(other, "author").cast(pa.float64()))
    changed(other, "vector", column(other, "vector").cast(pa.list_(pa.float64(), 2)))
    changed(other, "plays", column(other, "plays").cast(pa.float64()).cast(pa.decimal128(30, 12)))
    changed(other, "like", column(other, "like").cast(pa.decimal128(30, 0)))
    plain, found = fitted(tmp_path / "plain"), fitted(other)
    assert [t.rows for t in found.table] == [t.rows for t in plain.table]
    assert found.task == plain.task
    for one, two in zip(found.feature, plain.feature, strict=True):
        if one.kind == "statistic":
            assert one.boundaries == pytest.approx(two.boundaries)
    author = "vocabularies/author.parquet"
    assert pq.read_table(other / author).equals(pq.read_table(tmp_path / "plain" / author))


def test_a_column_may_be_a_partition(tmp_path):
    write(tmp_path)
    for number in (0, 1):
        table = pq.read_table(tmp_path / "train" / f"{number}.parquet")
        (tmp_path / "train" / f"size={number}.5").mkdir()
        pq.write_table(table.drop_columns(["size"]), tmp_path / "train" / f"size={number}.5" / "part.parquet")
        (tmp_path / "train" / f"{number}.parquet").unlink()
    size = next(f for f in fitted(tmp_path).feature if f.name == "size")
    assert size.mean == pytest.approx((120 * 0.5 + 80 * 1.5) / 200)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("like", pa.array(["yes"] * 80), r"1\.parquet: column 'like' has type string, but numbers are needed"),
        (
            "like",
            pa.array([0] * 79 + [7]),
            r"1\.parquet: column 'like': label 7 is neither 0 nor 1.*row 79 of the file",
        ),
        ("author", pa.array([1.0] * 79 + [1.5]), r"1\.parquet: column 'author': 1\.5 is no whole number.*row 79"),
        ("tags", pa.array([[["a"]]] * 80), r"1\.parquet: column 'tags' has type list<.*list<.*, but lists of .* are needed"),
        ("vector", pa.array([[1.0]] * 80), r"1\.parquet: column 'vector': lists of 2 numbers are needed"),
    ],
)
def test_what_the_reader_refuses_is_refused(tmp_path, name, value, message):
    write(tmp_path)
    changed(tmp_path, name, value)
    with pytest.raises(DataError, match=message):
        fitted(tmp_path)
    assert not (tmp_path / "schema.toml").exists()


def test_tasks_that_teach_nothing_are_told(tmp_path):
    write(tmp_path)
    for number, rows_ in ((0, 120), (1, 80)):
        path = tmp_path / "train" / f"{number}.parquet"
        table = pq.read_table(path)
        pq.write_table(table.set_column(table.schema.get_field_index("known"), "known", pa.array([0.0] * rows_)), path)
    (tmp_path / "draft.toml").write_text(DRAFT)
    told: list[str] = []
    fit_data(tmp_path / "draft.toml", tmp_path, told.append)
    assert any("task 'like': no row of the training part has a known label" in line for line in told)


def test_fitting_needs_no_torch():
    """Which would make the command wait for seconds before it reads anything."""
    program = "import sys, home_dist.prepare.fit, home_dist.prepare.generic; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=False).returncode == 0
