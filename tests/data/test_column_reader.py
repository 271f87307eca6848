"""One decoder for each use of a column, whatever types the files have."""

import numpy as np
import pyarrow as pa
import pytest

from home_dist.data.column_reader import BadRows, ColumnReader, _outside
from home_dist.data.labels import read_labels
from home_dist.data.order import RowGroup
from home_dist.data.raw_rows import RawRows
from home_dist.ids.no_group import NO_GROUP
from home_dist.ids.rows import HashRows
from home_dist.schema import DenseFeature, IdInput, StatisticFeature, Table, TaskSpec


def reader(*tables: dict) -> ColumnReader:
    parts = [pa.table(t) for t in tables]
    return ColumnReader([RawRows(t, f"file-{n}", RowGroup(n, 0, len(t))) for n, t in enumerate(parts)])


def id_input(column: str, is_list: bool = False, rows_of: HashRows | None = None) -> IdInput:
    return IdInput(column, column, Table("t", 1000, 4, True), is_list, "none", "small", 1000, rows_of=rows_of)


HASHED = HashRows("integer", 0, 1000)
BIG = 2**60 + 1


def test_a_column_serves_as_key_number_label_and_group_at_once():
    values = [1, 0, 1, 1]
    own = reader({"x": pa.array(values, pa.int8())})
    assert np.concatenate(own.ids(id_input("x", rows_of=HASHED))).tolist() == HASHED(pa.array(values)).tolist()
    assert own.numbers("x")[0].tolist() == values
    assert np.concatenate(read_labels(own, TaskSpec(name="t", group="g", column="x"), None)).tolist() == values
    assert np.concatenate(own.groups("x")).tolist() == values


def test_files_of_other_types_do_not_round_each_others_keys():
    own = reader({"x": pa.array([BIG, 3])}, {"x": pa.array([3.0, None])}, {"x": pa.array([BIG, 2**63 + 9], pa.uint64())})
    expected = HASHED(pa.array([BIG, 3, 3, None, BIG, 9 - 2**63])).tolist()
    assert np.concatenate(own.ids(id_input("x", rows_of=HASHED))).tolist() == expected
    groups = np.concatenate(own.groups("x")).tolist()
    assert groups == [BIG, 3, 3, NO_GROUP, BIG, 9 - 2**63]


def test_a_float_that_is_no_key_is_told_with_file_and_row():
    own = reader({"x": pa.array([1, 2])}, {"x": pa.array([1.0, 2.5, 3.5])})
    with pytest.raises(BadRows, match=r"^file-1: column 'x': 2\.5 is no whole number.*first in row 1 of .*; 2 in all") as told:
        own.ids(id_input("x", rows_of=HASHED))
    assert told.value.bad.tolist() == [False, False, False, True, True]


def test_rows_as_they_are_may_stand_in_floats():
    own = reader({"x": pa.array([1.0, 2.0]), "l": pa.array([[1.0], [2.0, 3.0]])})
    assert np.concatenate(own.ids(id_input("x"))).tolist() == [1, 2]
    taken = own.lists((id_input("l", True),)).take(np.arange(2), np.int64)
    assert taken.values[0].tolist() == [1, 2, 3]
    with pytest.raises(BadRows, match="null where a value is needed"):
        reader({"x": pa.array([1.0, None])}).ids(id_input("x"))


@pytest.mark.parametrize("unknown", [None, float("nan"), -1.0, 7.0])
def test_a_label_without_weight_needs_no_value(unknown):
    y = TaskSpec(name="y", group="g", column="y")
    own = reader({"y": pa.array([1.0, unknown, 0.0]), "w": pa.array([1.0, 0.0, 2.0])})
    weights = own.weights("w")
    assert np.concatenate(read_labels(own, y, weights)).tolist() == [1, 0, 0]
    with pytest.raises(BadRows, match="row 1"):
        read_labels(own, y, None)


def test_lists_of_other_lengths_shift_nothing():
    wide = DenseFeature(name="x", column="x", width=2)
    with pytest.raises(BadRows, match=r"lists of 2 numbers are needed \(first in row 0 of its row group; 2 in all"):
        reader({"x": pa.array([[1.0], [2.0, 3.0, 4.0], [5.0, 6.0]])}).wide(wide)
    for kind in (pa.list_(pa.float32(), 2), pa.large_list(pa.float64()), pa.list_(pa.int8()), pa.list_(pa.decimal128(22, 1))):
        values = pa.array([[1, 2], [3, 4]]).cast(kind)
        assert reader({"x": values}).wide(wide).tolist() == [[1, 2], [3, 4]]


def test_what_overflows_32_bits_is_refused_or_cut():
    feature = StatisticFeature(name="x", column="x", boundaries=(0.0,), mean=1.0, std=2.0)
    own = reader({"x": pa.array([3.0, None, 1e39])})
    with pytest.raises(BadRows, match=r"column 'x': too large for a number of 32 bits.*row 2"):
        own.dense([feature])
    assert own.dense([feature], clip=4.0).tolist() == [[1], [0], [4]]
    assert own.buckets(feature).tolist() == [2, 0, 2]


def test_whole_numbers_beyond_2_to_the_53_are_numbers_too():
    values, absent = reader({"x": pa.array([2**60 + 1, None, -(2**62)])}).numbers("x")
    assert values.tolist() == [float(2**60), 0, -float(2**62)]
    assert absent is not None
    assert absent.tolist() == [False, True, False]
    assert reader({"x": pa.array([2**64 - 1], pa.uint64())}).numbers("x")[0].tolist() == [2.0**64]


@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
@pytest.mark.parametrize("rows", [1, 100, 200, 300, 2**31, 2**40])
def test_ids_outside_of_a_table_are_seen_in_every_type(kind, rows):
    limits = np.iinfo(kind)
    for number in {int(limits.min), -1, 0, 1, 99, 100, 127, 128, 199, 200, 255, 2**31, int(limits.max)}:
        if limits.min <= number <= limits.max:
            assert _outside(np.array([0, number, 0], kind), rows) == (not 0 <= number < rows), number
    assert not _outside(np.array([], kind), rows)
