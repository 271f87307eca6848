"""The index of a large vocabulary: the same rows as the vocabulary held in memory, one copy per host, never another's rows."""

import os
import resource
import subprocess
import sys

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from home_dist.errors import DataError
from home_dist.ids import rows as rows_module
from home_dist.ids import vocabulary as vocabulary_module
from home_dist.ids import vocabulary_index
from home_dist.ids.rows import IndexedRows, VocabularyRows, open_rows
from home_dist.ids.vocabulary import VocabularyFile
from tests.ranks import REPOSITORY

WORDS = ["", "a", "b", "ab", "é", "eight888", "a longer one than eight", "\0", "\0\0"]
TEXTS = st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=20)), unique=True, max_size=40)
NUMBERS = st.lists(st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-5, 5)), unique=True, max_size=40)


@pytest.fixture
def indexed(monkeypatch):
    """All vocabularies are large ones, whose keys are sorted in many parts."""
    monkeypatch.setattr(rows_module, "INDEXED", 0)
    monkeypatch.setattr(vocabulary_index, "_PART_BYTES", 512)


def write(folder, values, first_row=1, name="v.parquet"):
    rows = np.random.default_rng(0).permutation(len(values)) + first_row
    pq.write_table(pa.table({"value": values, "row": pa.array(rows, pa.int32())}), folder / name)
    return folder / name


def opened(path, unknown_rows=0, kind=None):
    file = VocabularyFile.open(path, "t", kind)
    looks_up = open_rows(file, 1 + unknown_rows, 1 + unknown_rows + file.keys, unknown_rows)
    assert isinstance(looks_up, IndexedRows)
    return looks_up


def in_memory(path, unknown_rows=0):
    file = VocabularyFile.open(path, "t", None)
    vocabulary = file.whole(1 + unknown_rows, 1 + unknown_rows + file.keys)
    return VocabularyRows(file.kind, unknown_rows, vocabulary.keys, vocabulary.rows)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(("kind", "keys"), [(pa.string(), TEXTS), (pa.int64(), NUMBERS)])
def test_rows_are_those_of_the_vocabulary_in_memory(kind, keys, compiled, indexed, tmp_path_factory, monkeypatch):
    if not compiled:
        monkeypatch.setattr(vocabulary_index, "_native", lambda: None)

    @given(keys, keys, st.integers(0, 3), st.integers(0, 2))
    @settings(max_examples=25)
    def alike(known, others, unknown, cut):
        path = write(tmp_path_factory.mktemp("v"), pa.array(known, kind), 1 + unknown)
        asked = pa.array([*known, *others, None, *known[:3]], kind)[cut:]
        expected, found = in_memory(path, unknown)(asked), opened(path, unknown)
        assert found(asked).tolist() == expected.tolist()
        assert found(asked.dictionary_encode()).tolist() == expected.tolist()
        if kind == pa.string():
            assert found(asked.cast(pa.large_string())).tolist() == expected.tolist()

    alike()


@pytest.mark.parametrize("compiled", [True, False])
def test_many_keys_in_many_parts(compiled, indexed, tmp_path, monkeypatch):
    if not compiled:
        monkeypatch.setattr(vocabulary_index, "_native", lambda: None)
    path = write(tmp_path, pa.array([f"v{i * i}" for i in range(5000)]))
    asked = pa.array([f"v{i}" for i in range(0, 20_000, 3)])
    assert opened(path)(asked).tolist() == in_memory(path)(asked).tolist()


def test_texts_of_one_hash_are_told_apart(indexed, tmp_path, monkeypatch):
    """With a hash of two bits: keys of one hash fill a bucket, and are compared."""
    real = vocabulary_index.hash_texts
    monkeypatch.setattr(vocabulary_index, "hash_texts", lambda t, s: real(t, s) & np.uint64(3 << 62))
    monkeypatch.setattr(vocabulary_index, "_native", lambda: None)
    words = [f"w{i}" for i in range(40)]
    path = write(tmp_path, pa.array(words))
    asked = pa.array([*words, *(f"x{i}" for i in range(100))])
    assert opened(path)(asked).tolist() == in_memory(path)(asked).tolist()
    pq.write_table(pa.table({"value": [*words, "w7"], "row": np.arange(1, 42)}), path)
    with pytest.raises(DataError, match=r"v\.parquet: vocabulary of table 't': a value stands in it twice"):
        opened(path)


def test_an_index_is_built_once_and_shared(indexed, tmp_path, monkeypatch):
    path = write(tmp_path, pa.array(["a", "b", "c"]))
    opened(path)
    monkeypatch.setattr(vocabulary_index, "build_index", lambda *_: pytest.fail("built again"))
    assert opened(path)(pa.array(["b", "x"])).tolist() == in_memory(path)(pa.array(["b", "x"])).tolist()
    assert {p.name for p in tmp_path.iterdir()} == {"v.parquet", "v.parquet.index", ".v.parquet.index.lock"}


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "lengthened"])
def test_a_damaged_index_is_built_anew(damage, indexed, tmp_path):
    path = write(tmp_path, pa.array([f"v{i}" for i in range(100)]))
    opened(path)
    index = path.with_name("v.parquet.index")
    whole = index.read_bytes()
    index.write_bytes({"cut": whole[:-1], "empty": b"", "text": b"x" * 5000, "lengthened": whole + b"\0"}[damage])
    asked = pa.array([f"v{i}" for i in range(200)])
    assert opened(path)(asked).tolist() == in_memory(path)(asked).tolist()
    assert index.read_bytes() == whole


def test_the_index_of_another_vocabulary_is_not_used(indexed, tmp_path):
    first, second = write(tmp_path, pa.array(["a", "b"])), write(tmp_path, pa.array(["b", "c"]), name="w.parquet")
    opened(first)
    opened(second)
    os.replace(tmp_path / "v.parquet.index", tmp_path / "w.parquet.index")
    asked = pa.array(["a", "b", "c"])
    assert opened(second)(asked).tolist() == in_memory(second)(asked).tolist()


def test_a_cut_vocabulary_is_refused_though_its_index_is_whole(indexed, tmp_path):
    path = write(tmp_path, pa.array([f"v{i}" for i in range(100)]))
    sha256 = VocabularyFile.open(path, "t", "text").sha256
    opened(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.raises(DataError, match=r"vocabulary of table 't': is not the one that the schema was fitted with"):
        VocabularyFile.open(path, "t", "text", sha256)
    with pytest.raises(DataError, match=r"columns value and row cannot be read .* Write it again"):
        opened(path)
    path.write_bytes(whole[:40] + bytes(60) + whole[100:])  # the footer is whole, the pages are not
    with pytest.raises(DataError, match=r"v\.parquet: "):
        opened(path)
    assert not list(tmp_path.glob("*.parts"))


@pytest.mark.parametrize(
    ("values", "rows", "message"),
    [
        (pa.array(["a", None]), [1, 2], "or null in 'value'"),
        (pa.array([5, 5]), [1, 2], "a value stands in it twice"),
        (pa.array(["a", "b"]), [1, 3], "its rows are 1 to 3, but the schema leaves it rows 1 to 2"),
        (pa.array(["a", "b"]), [0, 1], "its rows are 0 to 1, but"),
        (pa.array(["a", "b"]), [1, 1 << 32], "is beyond the 4,294,967,296 rows of an index"),
    ],
)
def test_a_wrong_vocabulary_is_refused(values, rows, message, indexed, tmp_path):
    pq.write_table(pa.table({"value": values, "row": rows}), tmp_path / "v.parquet")
    with pytest.raises(DataError, match=message):
        opened(tmp_path / "v.parquet")


def test_beside_read_only_data_the_index_is_in_the_temporary_folder(indexed, tmp_path, monkeypatch):
    data, temporary = tmp_path / "data", tmp_path / "tmp"
    data.mkdir()
    temporary.mkdir(mode=0o700)
    path = write(data, pa.array(["a", "b"]))
    monkeypatch.setattr(vocabulary_index, "private_folder", lambda: temporary)
    real = vocabulary_index.locked

    def refusing(place):  # root may write to folders that are read-only for others
        if place.parent == data:
            raise PermissionError(13, "Permission denied", str(place))
        return real(place)

    monkeypatch.setattr(vocabulary_index, "locked", refusing)
    old = temporary / "old.index"
    old.touch()
    os.utime(old, (0, 0))
    assert opened(path)(pa.array(["a", "b"])).tolist() == in_memory(path)(pa.array(["a", "b"])).tolist()
    assert [p.suffix for p in temporary.glob("*.index")] == [".index"]
    assert not old.exists()
    assert not list(data.glob("*.index"))
    monkeypatch.setattr(vocabulary_index, "locked", lambda place: refusing(data / "x"))
    next(temporary.glob("*.index")).unlink()
    with pytest.raises(DataError, match=r"its index can be written neither beside it nor .*Permission denied.* set TMPDIR"):
        opened(path)


def test_negative_rows_are_refused_wherever_they_stand(indexed, tmp_path, monkeypatch):
    monkeypatch.setattr(vocabulary_module, "_PIECE", 100)
    keys, path = pa.array(range(1000)), tmp_path / "v.parquet"
    for negative in (slice(0, 100), slice(450, 460), slice(0, 1000)):
        rows = np.arange(1, 1001)
        rows[negative] *= -1
        pq.write_table(pa.table({"value": keys, "row": rows}), path)
        with pytest.raises(DataError, match=rf"its rows are {rows.min()} to {rows.max()}, but the schema leaves it rows 1 to"):
            opened(path)


@pytest.mark.parametrize("kind", [pa.int64(), pa.string()])
def test_more_parts_than_files_that_a_process_may_open(kind, indexed, tmp_path):
    path = write(tmp_path, pa.array(range(3000)).cast(kind))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 20, limits[1]))
    try:
        found = opened(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    asked = pa.array(range(5000)).cast(kind)
    assert found(asked).tolist() == in_memory(path)(asked).tolist()


def test_an_index_beside_the_vocabulary_needs_no_temporary_folder(indexed, tmp_path, monkeypatch):
    path = write(tmp_path, pa.array(["a", "b"]))
    opened(path)

    def nowhere():
        raise DataError("another user owns the folder")

    monkeypatch.setattr(vocabulary_index, "private_folder", nowhere)
    assert opened(path)(pa.array(["a", "b"])).tolist() == in_memory(path)(pa.array(["a", "b"])).tolist()


def test_an_old_index_that_another_process_removes_holds_up_none(indexed, tmp_path, monkeypatch):
    monkeypatch.setattr(vocabulary_index, "private_folder", lambda: tmp_path)
    (tmp_path / "gone.index").symlink_to(tmp_path / "nowhere")  # listed, and not there when it is looked at
    path = write(tmp_path, pa.array(["a", "b"]))
    assert vocabulary_index._temporary(VocabularyFile.open(path, "t", None)).parent == tmp_path


BUILD = """
import sys
from pathlib import Path
import numpy as np, pyarrow as pa
from home_dist.ids import rows, vocabulary_index
from home_dist.ids.vocabulary import VocabularyFile
rows.INDEXED = 0
real = vocabulary_index.build_index
vocabulary_index.build_index = lambda *given: (print("built"), real(*given))
file = VocabularyFile.open(Path(sys.argv[1]), "t", "text")
print(rows.open_rows(file, 1, 1 + file.keys)(pa.array(["v7", "x"])).tolist())
"""


def test_of_two_processes_one_builds(tmp_path):
    path = write(tmp_path, pa.array([f"v{i}" for i in range(50_000)]))
    command = [sys.executable, "-c", BUILD, str(path)]
    running = [subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate()[0].splitlines() for process in running]
    expected = str(in_memory(path)(pa.array(["v7", "x"])).tolist())
    assert [lines[-1] for lines in told] == [expected] * 2
    assert sorted(len(lines) for lines in told) == [1, 2]
