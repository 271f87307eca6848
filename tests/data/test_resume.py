"""Exact resume whatever the budget, the sample, the threads and the ranks: each row that belongs to an epoch exactly once."""

import hashlib
import shutil
from collections import Counter

import hypothesis.strategies as st
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from home_dist.config import load_config
from home_dist.data import Reader, ReaderPosition, open_files
from home_dist.data.order import RowGroup, cut, make_windows
from home_dist.errors import DataError
from home_dist.schema import build_layout, load_schema
from tests.data.numbered import make_numbered, numbers, read_in_stages
from tests.factory import make_config

ROWS = 523
GROUPS = (7, 600, 41)
"""Row-group sizes of the three files: the second file is one row group."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    data = make_numbered(folder / "data", ROWS, GROUPS)
    config = load_config(make_config(folder, data))
    schema = load_schema(config.schema_path())
    layout = build_layout(schema, config)
    return open_files(data / "train", schema, layout), schema, layout


def make_reader(prepared, **changes) -> Reader:
    return Reader(*prepared, **{"batch_size": 16, "seed": 3, "lanes": 4, "window_rows": 60, **changes})


def read(reader: Reader, epoch: int = 0) -> list[list[int]]:
    return [numbers(b) for b in reader.epoch(epoch)]


def of_memory(prepared, rows_of_a_lane: int, lanes: int = 4) -> float:
    """memory_mb such that a lane's share of it holds so many rows."""
    return rows_of_a_lane * prepared[0].row_values * 8 * lanes * 2 / 2**20 * 1.0001


@pytest.mark.slow
@settings(max_examples=30)
@given(
    stages=st.lists(
        st.tuples(
            st.sampled_from([1, 2, 3]),
            st.integers(1, 40),
            st.integers(0, 8),
            st.sampled_from([1, 4, 6]),
            st.sampled_from([6, 40, 4000]),
            st.integers(1, 3),
        ),
        min_size=1,
        max_size=4,
    ),
    rate=st.sampled_from([None, 0.05, 0.5]),
)
def test_any_budget_sample_threads_and_stops_lose_and_repeat_nothing(prepared, stages, rate):
    """A stage: (ranks, batch size, steps until the stop, lanes, rows that a lane has memory for, threads)."""
    sample = {} if rate is None else {"part-0000[12].*": rate}
    expected = {n for batch in read(make_reader(prepared, sample=sample)) for n in batch}

    def stage(ranks: int, batch_size: int, stop: int, lanes: int, rows: int, threads: int):
        changes = {"batch_size": batch_size, "world_size": ranks, "lanes": lanes, "threads": threads, "sample": sample}
        changes["memory_mb"] = of_memory(prepared, rows, lanes)
        return ranks, stop, lambda rank: make_reader(prepared, rank=rank, **changes)

    assert read_in_stages([stage(*s) for s in stages]) == Counter(expected)


@pytest.mark.parametrize("rows", [6, 40, 4000])
def test_batches_do_not_depend_on_threads(prepared, rows):
    one, many = (make_reader(prepared, memory_mb=of_memory(prepared, rows), threads=t, prefetch=t) for t in (1, 4))
    assert read(one) == read(many)


def test_a_resumed_run_goes_on_with_the_same_batches_under_another_budget(prepared):
    reader = make_reader(prepared, memory_mb=of_memory(prepared, 20))
    whole = read(reader)
    other = make_reader(prepared, memory_mb=of_memory(prepared, 4000), threads=2)
    assert read(other) != whole
    other.resume(ReaderPosition.from_json(reader.position(0, 7).to_json()))
    assert read(other) == whole[7:]
    assert read(other, 1) != read(reader, 1)  # the next epoch is cut by the new budget
    assert sorted(n for b in read(other, 1) for n in b) == list(range(ROWS))


def test_a_position_from_before_row_groups_were_cut_goes_on_as_it_was(prepared):
    """Such positions have no window_rows and no whole_rows."""
    whole = read(make_reader(prepared))
    tree = make_reader(prepared).position(0, 5).to_json()
    del tree["window_rows"], tree["whole_rows"]
    reader = make_reader(prepared, memory_mb=of_memory(prepared, 20))
    reader.resume(ReaderPosition.from_json(tree))
    assert read(reader) == whole[5:]


def test_a_position_from_before_folders_were_in_the_fingerprint_goes_on(prepared, tmp_path):
    """Files of one name in several folders."""
    files, schema, layout = prepared
    for number in (0, 2):
        (tmp_path / f"day={number}").mkdir()
        shutil.copy(files.paths[number], tmp_path / f"day={number}" / "part.parquet")
    nested = open_files(tmp_path, schema, layout), schema, layout
    reader = make_reader(nested)
    whole = read(reader)
    tree = reader.position(0, 5).to_json()
    del tree["window_rows"], tree["whole_rows"]
    groups = [(g.file, g.group, g.rows) for g in nested[0].groups]
    tree["fingerprint"] = hashlib.sha256(repr((["part.parquet"] * 2, groups)).encode()).hexdigest()[:16]
    assert tree["fingerprint"] != nested[0].fingerprint()
    reader.resume(ReaderPosition.from_json(tree))
    assert read(reader) == whole[5:]


@pytest.mark.parametrize("world", [1, 3])
def test_a_huge_row_group_is_decoded_once_and_within_the_budget(prepared, world, monkeypatch):
    """Rows that its streams give, and rows that lie decoded at one time."""
    from home_dist.data import ahead, raw_rows

    decoded, most = [], []
    original, started = raw_rows._Stream.read, ahead.Ahead._start

    def counted(stream, start, stop):
        before = stream.at
        table = original(stream, start, stop)
        decoded.append(stream.at - before)
        return table

    def watched(self):
        started(self)
        most.append(self._rows)

    monkeypatch.setattr(raw_rows._Stream, "read", counted)
    monkeypatch.setattr(ahead.Ahead, "_start", watched)
    lanes, rows = 6, 24
    reader = make_reader(prepared, memory_mb=of_memory(prepared, rows, lanes), lanes=lanes, world_size=world, threads=2)
    assert len([g for g in prepared[0].groups if g.rows > rows]) == 5
    read(reader)
    assert sum(decoded) <= sum(g.rows for g in prepared[0].groups if g.rows > reader.sizes.whole_rows)
    assert max(most) <= 2 * rows * lanes


def test_slices_cover_their_group_and_stay_in_order():
    groups = [RowGroup(0, 0, 10), RowGroup(0, 1, 100), RowGroup(1, 0, 101), RowGroup(1, 1, 30)]
    pieces = cut(groups, 30, 30)
    assert [(g.start, g.stop) for g in pieces if g[:2] == (1, 0)] == [(0, 25), (25, 50), (50, 75), (75, 101)]
    assert all(g.rows <= 30 for g in pieces)
    windows = make_windows(pieces, 60, 5, 0)
    flat = [g for window in windows.groups for g in window]
    assert sorted(flat) == sorted(pieces)
    for file, group in ((0, 1), (1, 0)):
        starts = [g.start for g in flat if (g.file, g.group) == (file, group)]
        assert starts == sorted(starts)


@pytest.mark.parametrize("rows", [6, 4000])
def test_a_sample_keeps_its_share_and_is_the_same_in_every_epoch(prepared, rows):
    files = prepared[0]
    changes = {"sample": {"part-00001.parquet": 0.25}, "memory_mb": of_memory(prepared, rows)}
    of_file = [sum(g.rows for g in files.groups if g.file == f) for f in range(3)]
    first = {n for b in read(make_reader(prepared, **changes)) for n in b}
    assert len([n for n in first if n < of_file[0]]) == of_file[0]
    middle = {n for n in first if of_file[0] <= n < of_file[0] + of_file[1]}
    assert abs(len(middle) - of_file[1] / 4) <= 1
    assert max(middle) - min(middle) > of_file[1] / 2  # from all over the file
    assert len(first) == of_file[0] + len(middle) + of_file[2]
    assert first == {n for b in read(make_reader(prepared, **changes), 3) for n in b}
    assert first == {n for b in read(make_reader(prepared, **changes, world_size=1, lanes=1)) for n in b}
    other = {n for b in read(make_reader(prepared, **changes, sample_seed=1)) for n in b}
    assert other != first
    assert len(other) in range(len(first) - 1, len(first) + 2)


def test_a_sample_that_matches_nothing_is_an_error(prepared):
    with pytest.raises(DataError, match=r"'date=1\*' matches none of the training files, such as part-00000.parquet"):
        make_reader(prepared, sample={"date=1*": 0.5})


@pytest.mark.parametrize("world", [1, 3])
def test_one_row_and_fewer_row_groups_than_ranks(prepared, tmp_path, world):
    files, schema, layout = prepared
    pq.write_table(pq.read_table(files.paths[0]).slice(3, 1), tmp_path / "one.parquet")
    steps, found = set(), []
    for rank in range(world):
        reader = Reader(open_files(tmp_path, schema, layout), schema, layout, batch_size=4, rank=rank, world_size=world, seed=1)
        steps.add(reader.steps(0))
        batches = list(reader.epoch(0))
        assert len(batches) == 1
        assert batches[0].size == 4
        found += numbers(batches[0])
    assert steps == {1}
    assert found == [3]
