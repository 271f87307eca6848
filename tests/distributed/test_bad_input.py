"""Bad input on two ranks: one message that names file, column or key and what to do; every rank ends."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.factory import make_config, make_data
from tests.ranks import run, settings

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def good_data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("good"), rows=400, files=2, row_group=50)


def replace(column: str, change: Callable[[pa.Array], pa.Array | list], where: str = "part-00001") -> Callable[[Path], None]:
    """Changes a column of a training file."""

    def act(folder: Path) -> None:
        path = next((folder / "train").glob(f"{where}*"))
        table = pq.read_table(path)
        index = table.schema.get_field_index(column)
        new = change(table.column(column).combine_chunks())
        new = pa.array(new, type=table.schema.field(index).type) if isinstance(new, list) else new
        pq.write_table(table.set_column(index, column, new), path, row_group_size=50)

    return act


def at(index: int, value: object) -> Callable[[pa.Array], list]:
    def change(array: pa.Array) -> list:
        values = array.to_pylist()
        values[index] = value
        return values

    return change


def drop(column: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        path = folder / "train" / "part-00001.parquet"
        pq.write_table(pq.read_table(path).drop_columns([column]), path)

    return act


def rewrite(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        path = folder / "train" / "part-00001.parquet"
        path.write_bytes(change(path.read_bytes()))

    return act


def flip_a_bit(folder: Path) -> None:
    """Within the values of column `rate`, where the file still decodes: only its checksum tells."""
    path = folder / "train" / "part-00001.parquet"
    group = pq.ParquetFile(path).metadata.row_group(0)
    chunk = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == "rate")
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 1
    path.write_bytes(content)


def empty_table(folder: Path) -> None:
    for path in (folder / "train").glob("*.parquet"):
        pq.write_table(pq.read_table(path).slice(0, 0), path)


NAN = float("nan")
CASES = {
    "missing split": (lambda f: shutil.rmtree(f / "train"), ["/train", "no such folder", "data.path"]),
    "no files": (lambda f: [p.unlink() for p in (f / "train").glob("*")], ["/train", "no *.parquet files"]),
    "missing schema": (lambda f: (f / "schema.toml").unlink(), ["schema.toml", "no such file", "data.schema"]),
    "missing column": (drop("tab"), ["part-00001.parquet", "column 'tab' is missing", "data.exclude"]),
    "wrong type": (replace("tab", lambda a: a.cast(pa.string())), ["part-00001.parquet", "column 'tab' has type string"]),
    "list where one": (
        replace("tags", lambda a: pa.array(np.arange(len(a)))),
        ["column 'tags' has type int64", "lists of whole"],
    ),
    "no bytes": (rewrite(lambda b: b""), ["part-00001.parquet", "empty (0 bytes)"]),
    "truncated": (rewrite(lambda b: b[: len(b) // 2]), ["part-00001.parquet", "truncated"]),
    "no rows": (empty_table, ["hold no rows"]),
    "damaged": (flip_a_bit, ["part-00001.parquet", "row group 0 cannot be read"]),
    "id too large": (replace("video", at(17, 2000)), ["part-00001.parquet", "'video'", "id 2000", "0 to 1999", "row 17"]),
    "id negative": (replace("user", at(3, -1)), ["part-00001.parquet", "'user'", "id -1 is outside", "row 3"]),
    "id in a history": (replace("watched_video", at(5, [1, 9999])), ["'watched_video'", "id 9999 is outside"]),
    "null id": (replace("tab", at(2, None)), ["'tab'", "null where a value is needed", "row 2"]),
    "label": (replace("like", at(11, 2)), ["part-00001.parquet", "'like'", "label 2 is neither 0 nor 1", "row 11"]),
    "weight": (replace("watch_weight", at(1, -1.0)), ["'watch_weight'", "negative or not finite"]),
    "nan in dense": (replace("age", at(7, NAN)), ["part-00001.parquet", "'age'", "NaN", "row 7"]),
    "nan in a vector": (replace("vector", at(7, [1.0, NAN, 1.0])), ["'vector'", "NaN", "row 7"]),
    "width of a vector": (replace("vector", at(7, [1.0])), ["'vector'", "lists of 3 numbers", "row 7"]),
    "null in a list": (replace("tags", at(9, [1, None])), ["'tags'", "null within a list", "row 9"]),
    "lengths of a history": (replace("watched_level", at(4, [1] * 9)), ["'watched_level'", "differ in length", "row 4"]),
}


FAST = ("damaged", "null id", "missing column", "no rows", "weight", "id too large", "id in a history")
"""One of each way to find it; all of them start two ranks."""


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in CASES])
def test_bad_data_ends_every_rank_with_one_message(name, good_data, tmp_path):
    break_it, expected = CASES[name]
    data = shutil.copytree(good_data, tmp_path / "data")
    break_it(data)
    ended = run(2, "train", make_config(tmp_path, data), *settings(checkpoint__every_steps=1), timeout=60)
    check(ended, expected)
    # What was trained before the bad rows came stays; nothing half-written does.
    assert not list((tmp_path / "run").glob("checkpoints/*.writing"))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.bach_size=3", ["train.bach_size", "unknown key", "batch_size"]),
        ("train.batch_size=0", ["train.batch_size", "greater than or equal to 1"]),
        ("model.kind=moe", ["model.kind", "'moe'", "home"]),
        ("train.lr=fast", ["train.lr", "valid number", "'fast'"]),
        ("data.exclude=['nothing']", ["data.exclude", "'nothing'"]),
        ("sequence.0.name=liked", ["'liked'", "there are: watched"]),
        ("embedding.tables.vidio.dim=8", ["embedding.tables.vidio", "no such table"]),
        ("train.task_weights.share=2", ["train.task_weights.share", "no such task"]),
        ("data.tasks=['share']", ["data.tasks: share", "no such task", "like, follow, watch"]),
    ],
)
def test_bad_configuration_names_the_key(override, expected, good_data, tmp_path):
    config = make_config(tmp_path, good_data)
    ended = run(2, "train", config, "--set", override)
    assert all(code not in (0, None) for code in ended.codes)
    for part in expected:
        assert part in ended.text, ended.text
    assert "Traceback" not in ended.text
    assert not (tmp_path / "run").exists()


def test_ranks_that_never_come_are_given_up_after_the_timeout(good_data, tmp_path):
    config = make_config(tmp_path, good_data)
    ended = run(2, "train", config, *settings(distributed__timeout=5), world_size=3, timeout=90)
    assert all(code != 0 for code in ended.codes)
    assert "could not join 3 ranks" in ended.text
    assert "Traceback" not in ended.text


def check(ended, expected: list[str]) -> None:
    assert all(code not in (0, None) for code in ended.codes), ended
    messages = [line for line in ended.text.splitlines() if line.startswith("error: ")]
    of_data = [m for m in messages if "lost contact" not in m]
    assert len(of_data) == 1, ended.text
    for part in expected:
        assert part in of_data[0], of_data[0]
    assert "Traceback" not in ended.text, ended.text
