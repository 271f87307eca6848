"""Tables that begin with vectors trained elsewhere: by vocabulary, hash or row, on several ranks; what cannot be is refused."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from home_dist.config import load_config
from home_dist.data.inputs import open_inputs
from home_dist.errors import ConfigError, DataError
from home_dist.ids.rows import HashRows
from home_dist.prepare.frozen import write_frozen
from home_dist.schema import Schema, load_schema, save_schema
from home_dist.training.checkpoint.reading import open_stored
from home_dist.training.table_starts import TableStarts
from tests.distributed.test_warm_start import FROZEN, write_vocabulary
from tests.factory import make_config, make_data, make_schema
from tests.ranks import run, settings

DIM, SMALL = 8, 4
"""Of sharded and of small tables in tests/factory.py."""
USERS = np.random.default_rng(3).permutation(50_000)[:2999]
TABS = ["a", "b", "c", "d"]


def vectors_of(keys, dim: int, seed: int) -> dict:
    return dict(zip(keys, np.random.default_rng(seed).normal(size=(len(keys), dim)).astype(np.float32), strict=True))


def written(folder, vectors: dict):
    """The folder that `prepare frozen` makes of vectors by key."""
    source = folder.with_suffix(".parquet")
    column = pa.array([v.tolist() for v in vectors.values()], pa.list_(pa.float32()))
    pq.write_table(pa.table({"key": list(vectors), "vector": column}), source)
    write_frozen(source, "key", "vector", folder)
    return folder


def hashed_tags() -> Schema:
    tree = make_schema().model_dump(exclude_none=True, mode="json")
    for table in tree["table"]:
        if table["name"] == "tag":
            table["values"] = {"kind": "hash", "type": "integer", "seed": 5}
    return Schema.model_validate(tree)


@pytest.fixture
def data(tmp_path):
    folder = make_data(tmp_path / "data", rows=200, files=2)
    save_schema(hashed_tags(), folder / "schema.toml")
    write_vocabulary(folder, "user", USERS.tolist())
    write_vocabulary(folder, "tab", TABS)
    return folder


@pytest.mark.distributed
@pytest.mark.parametrize(("kind", "ranks", "cut"), [("home", 2, 2000), ("stem", 1, 3000)])
def test_rows_of_known_keys_begin_with_their_vectors(tmp_path, data, kind, ranks, cut):
    given = {
        "user": vectors_of([*USERS[::3].tolist(), 60_000, 60_001], DIM, 0),  # two that the vocabulary lacks
        "video": vectors_of(range(0, 1900, 2), DIM, 1),  # row 0 is of missing keys
        "tag": vectors_of(range(1000), DIM, 2),
        "tab": vectors_of(["d", "other", "b"], SMALL, 3),
    }
    starts = settings(**{f"embedding__tables__{n}__start": written(tmp_path / n, v) for n, v in given.items()})
    shardings = settings(embedding__tables__video__sharding="row_wise", embedding__tables__tag__sharding="column_wise")
    shardings += settings(model__kind=kind, embedding__tables__user__keep_rows=cut)
    plain = run(ranks, "train", make_config(tmp_path / "a", data), *FROZEN, *shardings)
    config = make_config(tmp_path / "b", data)
    if kind == "home":  # what is wrong is told before the run's folder is taken
        wrong = run(ranks, "train", config, *FROZEN, *shardings, *settings(embedding__tables__tab__start=tmp_path / "nowhere"))
        assert wrong.codes == [3] * ranks
        assert "nowhere: frozen table of embedding.tables.tab.start" in wrong.text
    begun = run(ranks, "train", config, *FROZEN, *shardings, *starts)
    assert plain.codes == begun.codes == [0] * ranks, plain.text + begun.text
    drawn, here = (open_stored(next((tmp_path / n / "run" / "checkpoints").glob("step-*")))[0] for n in "ab")

    tag_rows = HashRows("integer", 5, 1500)(pa.array(range(1000)))
    rows_of = {
        "user": {key: row for row, key in enumerate(USERS.tolist(), 1) if row < cut},
        "video": {key: key for key in range(1, 2000)},
        "tag": dict(zip(range(1000), tag_rows.tolist(), strict=True)),  # keys share rows
        "tab": {key: row for row, key in enumerate(TABS, 1)},
    }
    for name, rows in rows_of.items():
        small = name == "tab"
        tensor = "dense/head.features.replicated.weights.4" if small and kind == "home" else f"tables/{name}/weight"
        if tensor not in here.tensors:
            tensor = next(t for t in here.tensors if t.startswith("dense/head.features.replicated.weights."))
        before, after = (s.whole(tensor).numpy() for s in (drawn, here))
        dim = SMALL if small else DIM
        wanted = before.copy()
        for key, vector in given[name].items():
            if key in rows:
                wanted[rows[key]] = np.tile(vector, before.shape[1] // dim)
        assert (wanted != before).any()
        np.testing.assert_array_equal(after, wanted, err_msg=name)
    if kind == "home":
        known = sum(row < cut for row in range(1, 3000, 3))
        assert (
            f"table user: begins with vectors of {known:,} keys ({cut:,} rows), by the vocabulary, from {tmp_path}/user"
            in begun.text
        )
        assert "by the row's number, as no vocabularies/video.parquet tells of which key it is" in begun.text
        shutil.rmtree(tmp_path / "user")
        more = [o.replace("max_steps=1", "max_steps=2") for o in FROZEN]
        moved = [str(o).replace(f"{tmp_path}/user", f"{tmp_path}/gone") for o in starts]
        resumed = run(ranks, "train", config, *more, *shardings, *moved)
        assert resumed.codes == [0] * ranks, resumed.text
        assert "begins with vectors" not in resumed.text


def opened(tmp_path, data, *overrides: str) -> TableStarts:
    config = load_config(make_config(tmp_path / "run", data), [*overrides])
    return TableStarts(open_inputs(config, load_schema(config.schema_path())))


def test_folders_that_do_not_fit_are_refused(tmp_path, data):
    eight = written(tmp_path / "eight", vectors_of(range(50_100, 50_200), DIM, 0))
    six = written(tmp_path / "six", vectors_of(range(50_100, 50_200), 6, 0))
    told = r"six: frozen table of embedding\.tables\.user\.start: .*\[100, 8\] is needed\."
    with pytest.raises(
        DataError, match=told + r" Set embedding\.tables\.user\.dim to their width, which must be a multiple of 4"
    ):
        opened(tmp_path, data, f"embedding.tables.user.start={six}")
    with pytest.raises(DataError, match=r"nowhere: frozen table of embedding\.tables\.user\.start: .* cannot be read"):
        opened(tmp_path, data, f"embedding.tables.user.start={tmp_path}/nowhere")
    with pytest.raises(ConfigError, match=r"embedding\.tables\.user\.start: no feature or history of this run reads the table"):
        opened(tmp_path, data, f"embedding.tables.user.start={eight}", "data.exclude=['user']")
    for tables, message in (
        (f"tag = {{start = '{eight}', managed = 'lfu'}}", "rows of managed tables are given to ids as they come"),
        ("tag = {start = 's3://bucket/vectors'}", "copy it to a disk of each host"),
    ):
        with pytest.raises(ConfigError, match=message):
            opened(tmp_path, data, f"embedding.tables={{{tables}}}")
    with pytest.raises(
        DataError, match=r"eight: it holds no key of table 'user'\. .* or remove embedding\.tables\.user\.start"
    ):
        opened(tmp_path, data, f"embedding.tables.user.start={eight}")
    texts = written(tmp_path / "texts", vectors_of(["1", "2"], DIM, 0))
    with pytest.raises(DataError, match=r"texts: .*: its keys are of type text, but integer is needed"):
        opened(tmp_path, data, f"embedding.tables.tag.start={texts}")
    short = vectors_of(USERS[:2].tolist(), DIM, 0)
    short[int(USERS[1])][3] = np.nan
    np.save(eight / "keys.npy", np.sort(USERS[:2]))
    np.save(eight / "vectors.npy", np.stack([short[k] for k in np.sort(USERS[:2]).tolist()]))
    [start] = opened(tmp_path, data, f"embedding.tables.user.start={eight}").starts
    with pytest.raises(DataError, match=r"eight: vector \d holds NaN, infinity or more than 3\.40282e\+38"):
        start.fill([(0, 0, torch.zeros(3000, DIM))])


def test_hosts_with_other_copies_are_refused(tmp_path, data):
    keys = USERS[:100].tolist()
    one, other = (written(tmp_path / name, vectors_of(keys, DIM, seed)) for seed, name in enumerate(("one", "other")))
    first, second = (opened(tmp_path, data, f"embedding.tables.user.start={f}") for f in (one, other))
    first._refuse_other_copies([s.mark for s in first.starts])
    with pytest.raises(DataError, match=r"one on .*: holds other vectors than on the first rank's host\. .*: copy it again"):
        first._refuse_other_copies([s.mark for s in second.starts])


def test_texts_hashed_with_another_seed_are_refused(tmp_path, data):
    text = (data / "schema.toml").read_text()
    (data / "schema.toml").write_text(text.replace('type = "integer"', 'type = "text"'))
    for split in ("train", "validation", "test"):
        for path in (data / split).glob("*.parquet"):
            table = pq.read_table(path)
            names = pa.ListArray.from_arrays(
                table["tags"].combine_chunks().offsets, table["tags"].combine_chunks().values.cast(pa.string())
            )
            pq.write_table(table.set_column(table.column_names.index("tags"), "tags", names), path, write_page_checksum=True)
    folder = written(tmp_path / "tags", vectors_of([f"t{n}" for n in range(9)], DIM, 0))
    with pytest.raises(ConfigError, match=r"hash with seed 0, and the table hashes them with seed 5"):
        opened(tmp_path, data, f"embedding.tables.tag.start={folder}")
    (data / "schema.toml").write_text((data / "schema.toml").read_text().replace("seed = 5", "seed = 0"))
    [start] = opened(tmp_path, data, f"embedding.tables.tag.start={folder}").starts
    [(places, rows)] = start.pairs(start.frozen)
    keys = np.load(folder / "keys.npy")
    by_name = {f"t{n}": HashRows("text", 0, 1500)(pa.array([f"t{n}"]))[0] for n in range(9)}
    assert sorted(rows.tolist()) == sorted(by_name.values())
    assert places.tolist() == list(range(len(keys)))
