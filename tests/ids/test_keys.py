"""Keys of every type: the same number is the same key, null alone is missing."""

from decimal import Decimal

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given

from home_dist.ids.hashing import hash_integers
from home_dist.ids.keys import NotKeys, as_keys, codes, fits_key, group_numbers, key_type
from home_dist.ids.no_group import NO_GROUP
from home_dist.ids.rows import HashRows, ManagedKeys, VocabularyRows
from home_dist.ids.vocabulary import Counts, VocabularyFile, counted, merged, most_frequent

INTEGERS = [getattr(pa, f"{sign}int{bits}")() for sign in ("", "u") for bits in (8, 16, 32, 64)]
SMALL = st.lists(st.one_of(st.none(), st.integers(0, 100)), max_size=12)


FLOATS = [pa.float16(), pa.float32(), pa.float64()]
DECIMALS = [pa.decimal128(20, 0), pa.decimal128(30, 2), pa.decimal256(40, 1)]


@pytest.mark.parametrize("kind", [*INTEGERS, *FLOATS, *DECIMALS, pa.bool_()], ids=str)
@given(values=SMALL)
def test_a_whole_number_is_the_same_key_in_every_type(kind, values):
    if pa.types.is_boolean(kind):
        values = [None if v is None else v % 2 for v in values]
    array = pa.array(values, pa.int64()).cast(kind)
    expected = pa.array(values, pa.int64())
    assert as_keys(array, "integer").equals(expected)
    vocabulary = VocabularyRows("integer", 2, pa.array([7, 8]), np.array([3, 4]))
    for rows_of in (HashRows("integer", 3, 50), ManagedKeys("integer", 3), vocabulary):
        assert rows_of(array).tolist() == rows_of(expected).tolist()
        assert all(row == 0 for row, v in zip(rows_of(array).tolist(), values, strict=True) if v is None)


@given(st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))))
def test_the_whole_range_with_a_sign(values):
    array = pa.array(values, pa.int64())
    assert as_keys(array, "integer").equals(array)
    decimals = pa.array([None if v is None else Decimal(v) for v in values], pa.decimal128(38, 0))
    assert as_keys(decimals, "integer").equals(array)


@given(st.lists(st.one_of(st.none(), st.integers(0, 2**64 - 1))))
def test_the_whole_range_without_one_has_the_same_bits(values):
    bits = pa.array([None if v is None else (v + 2**63) % 2**64 - 2**63 for v in values], pa.int64())
    assert as_keys(pa.array(values, pa.uint64()), "integer").equals(bits)
    decimals = pa.array([None if v is None else Decimal(v) for v in values], pa.decimal128(38, 0))
    assert as_keys(decimals, "integer").equals(bits)
    known = [v for v in values if v is not None]
    expected = hash_integers(np.array(known, np.uint64), 1).tolist()
    assert hash_integers(np.asarray(bits.drop_null(), np.int64), 1).tolist() == expected


def test_decimals_beyond_both_ranges_at_once():
    array = pa.array([Decimal(2**63 + 1), None, Decimal(-4)], pa.decimal128(38, 0))
    assert as_keys(array, "integer").to_pylist() == [1 - 2**63, None, -4]


@pytest.mark.parametrize(
    ("values", "kind", "problem", "bad"),
    [
        ([1.0, 1.5, None], pa.float64(), "1.5 is no whole number", [False, True, False]),
        ([1.0, float("inf")], pa.float64(), "inf is no whole number", [False, True]),
        ([2.0**53, 2.0**53 + 2], pa.float64(), "9007199254740994 is beyond 2.53, from where double rounds", [False, True]),
        ([2.0**24, 2.0**24 + 2], pa.float32(), "16777218 is beyond 2.24", [False, True]),
        ([Decimal("1.50")], pa.decimal128(9, 2), "1.50 is no whole number of 64 bits", [True]),
        ([Decimal(2**64)], pa.decimal128(38, 0), "is no whole number of 64 bits", [True]),
        (["5"], pa.string(), "a column of type string holds no whole numbers", [True]),
    ],
)
def test_what_is_no_key_is_told(values, kind, problem, bad):
    with pytest.raises(NotKeys, match=problem) as told:
        as_keys(pa.array(values, kind), "integer")
    assert told.value.bad.tolist() == bad


def test_types_that_hold_keys():
    assert key_type(pa.dictionary(pa.int32(), pa.string())) == key_type(pa.string_view()) == "text"
    assert key_type(pa.binary()) is None
    assert fits_key(pa.null(), "text")
    assert not fits_key(pa.int64(), "text")
    assert as_keys(pa.nulls(3), "text").null_count == 3
    with pytest.raises(NotKeys, match="int64 holds no texts"):
        as_keys(pa.array([1]), "text")


@given(st.lists(st.tuples(st.one_of(st.none(), st.integers(-3, 3)), st.one_of(st.none(), st.sampled_from("abc")))))
def test_codes_tell_combinations_apart(rows):
    numbers, texts = (pa.array([r[i] for r in rows], kind) for i, kind in enumerate((pa.int64(), pa.string())))
    own = codes(numbers, texts).tolist()
    for i, one in enumerate(rows):
        assert (own[i] == -1) == (None in one)
        for j, other in enumerate(rows[:i]):
            if None not in one and None not in other:
                assert (own[i] == own[j]) == (one == other)


def test_groups_are_equal_where_keys_are():
    texts = [str(2**60 + i) for i in range(7)] * 2
    chunks = [pa.array([*texts, None]), pa.array(texts).dictionary_encode()]
    numbers = group_numbers(chunks, "text")
    assert len(set(numbers[:14].tolist())) == 7
    assert numbers[14] == NO_GROUP
    assert numbers[15:].tolist() == numbers[:14].tolist()
    assert group_numbers([pa.array([3, None, -1, -(2**63)])], "integer").tolist() == [3, NO_GROUP, -1, NO_GROUP + 1]


@given(st.lists(st.lists(st.one_of(st.none(), st.integers(-5, 5)), max_size=9), max_size=4), st.integers(1, 3))
def test_counts_are_a_counter(batches, least):
    counts = Counts("integer")
    for batch in batches:
        counts.add(pa.array(batch, pa.int64()))
    every = [v for batch in batches for v in batch if v is not None]
    expected = sorted(((v, every.count(v)) for v in set(every) if every.count(v) >= least), key=lambda e: (-e[1], e[0]))
    table = most_frequent(counts.total(), least, first_row=4)
    assert list(zip(table["value"].to_pylist(), table["count"].to_pylist(), strict=True)) == expected
    assert table["row"].to_pylist() == list(range(4, 4 + len(expected)))


def test_keys_without_a_sign_are_written_so_again(tmp_path):
    import pyarrow.parquet as pq

    counts = Counts("integer")
    counts.add(pa.array([2**63 + 5, 2**63 + 5, 3], pa.uint64()))
    table = most_frequent(counts.total(), 1, unsigned=counts.unsigned)
    assert table["value"].to_pylist() == [2**63 + 5, 3]
    pq.write_table(table, tmp_path / "v.parquet")
    vocabulary = VocabularyFile.open(tmp_path / "v.parquet", "t", "integer").whole(1, 3)
    rows_of = VocabularyRows("integer", 0, vocabulary.keys, vocabulary.rows)
    assert rows_of(pa.array([3, 2**63 + 5, None], pa.uint64())).tolist() == [2, 1, 0]
    assert rows_of(pa.array([5 - 2**63, -1])).tolist() == [1, 0]
    assert merged([counted(pa.array(["a", None]).dictionary_encode())], "text").to_pylist() == [{"value": "a", "count": 1}]
