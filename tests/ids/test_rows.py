"""Rows of raw ids: hashes against plain Python integers, vocabularies against a dict."""

import os
import subprocess
import sys

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given

from home_dist.errors import DataError
from home_dist.ids.hashing import hash_integers, hash_texts, rows_of_hashes
from home_dist.schema.values import HashValues, VocabularyValues, open_values
from tests.ranks import REPOSITORY

BITS = (1 << 64) - 1


def mix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & BITS
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & BITS
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & BITS
    return x ^ x >> 31


def hash_of_text(text: str, seed: int) -> int:
    raw = text.encode()
    h = mix(mix(seed) ^ len(raw))
    for at in range(0, len(raw), 8):
        h = mix(h ^ int.from_bytes(raw[at : at + 8], "little"))
    return h


@given(st.lists(st.integers(-(2**63), 2**63 - 1)), st.integers(0, 2**63 - 1))
def test_hash_of_integers(values, seed):
    expected = [mix((v & BITS) ^ mix(seed)) for v in values]
    assert hash_integers(np.array(values, np.int64), seed).tolist() == expected


def test_an_integers_width_is_no_part_of_its_hash():
    expected = hash_integers(np.array([0, 5, 100]), 3).tolist()
    for kind in (np.int8, np.uint8, np.int32, np.uint32, np.uint64):
        assert hash_integers(np.array([0, 5, 100], kind), 3).tolist() == expected
    assert hash_integers(np.array([-1], np.int8), 0).tolist() == hash_integers(np.array([2**64 - 1], np.uint64), 0).tolist()


@given(st.lists(st.text(max_size=40)), st.integers(0, 2**63 - 1), st.integers(0, 3))
def test_hash_of_texts(texts, seed, cut):
    array = pa.array(texts, pa.string())[cut:]  # a slice has an offset into its buffers
    assert hash_texts(array, seed).tolist() == [hash_of_text(t, seed) for t in texts[cut:]]


PROGRAM = """
import numpy as np, pyarrow as pa
from home_dist.ids.hashing import *
print(hash_integers(np.array([0, 1, -1, 2**62]), 7).tolist())
print(hash_texts(pa.array(["", "a", "Ünïcode", "x" * 20]), 7).tolist())
print(rows_of_hashes(hash_integers(np.arange(5), 0), 1000).tolist())
"""


def test_hashes_are_these_in_any_process_and_version():
    """Written down: a change would give every id of every trained model another row."""
    command = [sys.executable, "-c", PROGRAM]
    for seed in "12":
        settings = {**os.environ, "PYTHONHASHSEED": seed}
        ended = subprocess.run(command, env=settings, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        assert ended.stdout.splitlines() == [
            "[13309476754707697221, 4414019431610648415, 12225420764836534112, 4473126671348727757]",
            "[13309476754707697221, 6583217003421279749, 12941545870300781138, 1666285611434315485]",
            "[271, 818, 416, 618, 402]",
        ]


def test_hashed_rows_are_spread_evenly_and_leave_row_0_alone():
    rows = rows_of_hashes(hash_integers(np.arange(100_000), 1), 101)
    counts = np.bincount(rows, minlength=101)
    assert counts[0] == 0
    # Chi-square with 99 degrees of freedom: above 149 in one of a thousand seeds.
    assert ((counts[1:] - 1000) ** 2 / 1000).sum() < 149
    texts = rows_of_hashes(hash_texts(pa.array([f"video_{i}" for i in range(100_000)]), 1), 101)
    assert ((np.bincount(texts, minlength=101)[1:] - 1000) ** 2 / 1000).sum() < 149


def test_seeds_give_other_rows():
    rows = [rows_of_hashes(hash_integers(np.arange(1000), s), 10_000) for s in (0, 1)]
    assert (rows[0] != rows[1]).mean() > 0.99


def write_vocabulary(folder, values, first_row=1):
    rows = np.arange(first_row, first_row + len(values))
    pq.write_table(pa.table({"value": values, "row": pa.array(rows, pa.int32())}), folder / "v.parquet")
    return rows


TEXTS = st.one_of(st.none(), st.sampled_from(["a", "b", "ab", "", "é", "a longer one than eight"]), st.text(max_size=9))


@given(st.lists(st.text(max_size=9), unique=True, max_size=8), st.lists(TEXTS, max_size=30), st.integers(0, 3), st.booleans())
def test_a_vocabulary_of_texts_is_a_dict(tmp_path_factory, words, texts, unknown, dictionary):
    folder = tmp_path_factory.mktemp("v")
    rows = write_vocabulary(folder, pa.array(words, pa.string()), first_row=1 + unknown)
    values = VocabularyValues(type="text", file="v.parquet", unknown_rows=unknown)
    column = pa.array(texts, pa.string())
    found = open_values("t", values, 1 + unknown + len(words), folder)(column.dictionary_encode() if dictionary else column)
    known = dict(zip(words, rows.tolist(), strict=True))
    other = {t: 1 + hash_of_text(t, 0) % unknown if unknown else 0 for t in texts if t is not None}
    assert found.tolist() == [0 if t is None else known.get(t, other[t]) for t in texts]


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, max_size=8),
    st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), max_size=20),
    st.integers(0, 3),
)
def test_a_vocabulary_of_integers_is_a_dict(tmp_path_factory, keys, others, unknown):
    folder = tmp_path_factory.mktemp("v")
    rows = write_vocabulary(folder, pa.array(keys, pa.int64()), first_row=1 + unknown)
    values = VocabularyValues(type="integer", file="v.parquet", unknown_rows=unknown)
    wanted = [*others, *keys, None]
    found = open_values("t", values, 1 + unknown + len(keys), folder)(pa.array(wanted, pa.int64()))
    known = dict(zip(keys, rows.tolist(), strict=True))
    other = {v: 1 + mix((v & BITS) ^ mix(0)) % unknown if unknown else 0 for v in wanted if v is not None}
    assert found.tolist() == [0 if v is None else known.get(v, other[v]) for v in wanted]


def test_texts_of_one_hash_are_told_apart(tmp_path, monkeypatch):
    """With a hash of a few bits: in the vocabulary it takes another seed, in the data it compares."""
    import home_dist.ids.rows as module

    real = module.hash_texts
    monkeypatch.setattr(module, "hash_texts", lambda texts, seed: real(texts, seed) % np.uint64(8))
    write_vocabulary(tmp_path, pa.array(["a", "b", "c"]))
    rows = open_values("t", VocabularyValues(type="text", file="v.parquet"), 4, tmp_path)
    others = [f"x{i}" for i in range(50)]
    assert rows(pa.array(["c", "b", "a", *others])).tolist() == [3, 2, 1] + [0] * 50


def test_each_distinct_text_is_looked_up_once(tmp_path, monkeypatch):
    rows = open_values("t", HashValues(type="text"), 100, tmp_path)
    looked_up = []
    real = rows._rows
    monkeypatch.setattr(rows, "_rows", lambda values: looked_up.append(len(values)) or real(values))
    column = pa.array(["a", "b", None] * 1000).dictionary_encode()
    assert len(set(rows(column).tolist())) == 3
    assert looked_up == [2]


@pytest.mark.parametrize(
    ("values", "given", "rows", "message"),
    [
        (["a", "b"], {"type": "integer"}, 3, "column 'value' has type string, the schema says integer"),
        ([1, 2], {"type": "integer"}, 2, "its rows are 1 to 2, but the schema leaves it rows 1 to 1"),
        ([1, 2], {"type": "integer", "unknown_rows": 1}, 5, "its rows are 1 to 2, but the schema leaves it rows 2 to 4"),
        ([1, 1], {"type": "integer"}, 3, "a value stands in it twice"),
        ([1, None], {"type": "integer"}, 3, "or null in 'value'"),
        ([1, 2], {"type": "integer", "sha256": "0" * 64}, 3, "is not the one that the schema was fitted with"),
        ([1, 2], {"type": "integer", "file": "w.parquet"}, 3, r"w\.parquet: vocabulary of table 't': no such file"),
    ],
)
def test_a_wrong_vocabulary_is_refused(tmp_path, values, given, rows, message):
    write_vocabulary(tmp_path, pa.array(values))
    with pytest.raises(DataError, match=message):
        open_values("t", VocabularyValues(**{"file": "v.parquet", **given}), rows, tmp_path)
