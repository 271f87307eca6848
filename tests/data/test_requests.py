"""Requests: each one whole and in one batch of one rank, every row once, through any stops and numbers of ranks."""

import hashlib
from collections import Counter
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from home_dist.config import load_config
from home_dist.data import Reader, ReaderPosition, open_files
from home_dist.data import raw_rows as raw
from home_dist.data.bad_rows import BadRowLog
from home_dist.errors import CheckpointError, ConfigError
from home_dist.schema import build_layout
from tests.data.numbered import make_numbered, numbers, read_in_stages
from tests.data.with_requests import GROUPS, SIZES, Prepared
from tests.factory import make_config, make_schema


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return Prepared(tmp_path_factory.mktemp("requests"), SIZES, GROUPS)


def of_memory(prepared: Prepared, rows_of_a_lane: int, lanes: int = 4) -> float:
    """memory_mb such that a lane's share of it holds so many rows."""
    return rows_of_a_lane * prepared.files.row_values * 8 * lanes * 2 / 2**20 * 1.0001


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("memory", [8, 40, 4000])
def test_every_request_is_whole_in_one_batch_and_every_row_is_read_once(prepared, world, memory):
    seen, steps = [], set()
    for rank in range(world):
        reader = prepared.reader(world_size=world, rank=rank, memory_mb=of_memory(prepared, memory), threads=2)
        batches = list(reader.epoch(1))
        steps.add((reader.steps(1), len(batches)))
        seen += prepared.check(batches)
    assert Counter(seen) == Counter(range(prepared.rows))
    assert len(steps) == 1
    assert seen != sorted(seen)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    sizes=st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=30), min_size=1, max_size=3),
    groups=st.lists(st.integers(1, 50), min_size=3, max_size=3),
    seed=st.integers(0, 3),
    stages=st.lists(
        st.tuples(
            st.sampled_from([1, 2, 3]),
            st.sampled_from([12, 24, 36]),
            st.integers(0, 5),
            st.sampled_from([1, 4, 6]),
            st.sampled_from([8, 40, 4000]),
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_any_sizes_stops_and_ranks_lose_and_repeat_nothing(tmp_path_factory, sizes, groups, seed, stages):
    """A stage: (ranks, batch size, steps until the stop, lanes, rows that a lane has memory for). With several stages, bins of
    12 rows, which fit all of the batch sizes."""
    made = Prepared(tmp_path_factory.mktemp("any"), sizes, groups[: len(sizes)])

    def stage(ranks: int, batch_size: int, stop: int, lanes: int, rows: int):
        changes = {"batch_size": batch_size, "world_size": ranks, "lanes": lanes, "seed": seed}
        changes["memory_mb"] = of_memory(made, rows, lanes)

        def reader(rank: int) -> Reader:
            reader = checked(made, made.reader(rank=rank, **changes))
            if len(stages) > 1:
                reader.sizes = replace(reader.sizes, bin_rows=12)
            return reader

        return ranks, stop, reader

    assert read_in_stages([stage(*s) for s in stages]) == Counter(range(made.rows))


def checked(made: Prepared, reader: Reader) -> Reader:
    """The reader, whose batches are checked as they pass."""
    epoch = reader.epoch

    def passing(number: int):
        for batch in epoch(number):
            made.check([batch])
            yield batch

    reader.epoch = passing  # type: ignore[method-assign]
    return reader


def test_the_order_is_the_same_on_one_and_two_ranks(prepared):
    def global_batches(world: int) -> list[list[int]]:
        readers = [prepared.reader(world_size=world, rank=r, batch_size=48 // world) for r in range(world)]
        assert {r.sizes.bin_rows for r in readers} == {12}
        return [sorted(n for b in batches for n in numbers(b)) for batches in zip(*(r.epoch(0) for r in readers), strict=True)]

    assert global_batches(1) == global_batches(2)


def test_requests_are_shuffled_by_seed_and_epoch(prepared):
    def read(epoch: int = 0, **changes) -> list[int]:
        return [n for b in prepared.reader(**changes).epoch(epoch) for n in numbers(b)]

    assert read() == read(threads=3, prefetch=1)
    assert read() != read(1)
    assert read() != read(seed=4)
    assert read(seed=None, lanes=1) == list(range(prepared.rows))
    of_one_window = [read(epoch, window_rows=1000, seed=seed, lanes=1) for epoch, seed in ((0, 1), (1, 1), (0, 2))]
    for number, order in enumerate(of_one_window):
        neighbours = np.mean(np.diff(prepared.request_of[order]) == 1)
        assert neighbours < 0.05
        assert order not in of_one_window[:number]


@pytest.mark.parametrize("memory", [8, 4000])
def test_a_resumed_run_goes_on_with_the_same_batches(prepared, memory):
    reader = prepared.reader(memory_mb=of_memory(prepared, memory))
    whole = [(numbers(b), b.requests.tolist()) for b in reader.epoch(0)]
    other = prepared.reader()
    other.resume(ReaderPosition.from_json(reader.position(0, 5).to_json()))
    assert [(numbers(b), b.requests.tolist()) for b in other.epoch(0)] == whole[5:]
    prepared.check(list(other.epoch(1)))


def test_an_epoch_keeps_its_bins_and_the_next_one_chooses_anew(prepared):
    reader = prepared.reader(batch_size=24, lanes=4)
    assert reader.sizes.bin_rows == 12
    first = [n for b in list(reader.epoch(0))[:4] for n in numbers(b)]
    later = prepared.reader(batch_size=36, lanes=2)
    later.sizes = replace(later.sizes, bin_rows=18)
    later.resume(reader.position(0, 4))
    rest = prepared.check(list(later.epoch(0)))
    assert sorted(first + rest) == list(range(prepared.rows))
    assert later.position(0, 1).bin_rows == 12
    assert later.position(1, 0).bin_rows == 18
    assert later.steps(0) == -(-(reader.windows(0).firsts[-1] - 8) // 3)
    unfit = prepared.reader(batch_size=20, lanes=4)
    with pytest.raises(CheckpointError, match=r"bins of 12 rows.* Set train.batch_size to 12, 24, 36 or another multiple"):
        unfit.resume(reader.position(0, 4))
    unfit.resume(reader.position(1, 0))  # at an epoch's begin its bins are not chosen yet
    assert sorted(prepared.check(list(unfit.epoch(1)))) == list(range(prepared.rows))
    assert [numbers(b) for b in unfit.epoch(1)] == [numbers(b) for b in prepared.reader(batch_size=20).epoch(1)]


def test_a_position_of_a_run_without_requests_does_not_go_on_with_them(prepared):
    plain, kept = prepared.reader(requests=None), prepared.reader()
    for one, other in ((plain, kept), (kept, plain)):
        with pytest.raises(CheckpointError, match=r"an epoch that began with(out)? data.request.* Set data.request back"):
            one.resume(other.position(0, 3))


def test_other_sizes_of_requests_within_an_epoch_are_refused(prepared):
    reader, sizes = prepared.reader(), prepared.requests.sizes.copy()
    sizes[0], sizes[1] = sizes[1], sizes[0]
    other = prepared.reader(requests=replace(prepared.requests, sizes=sizes))
    with pytest.raises(CheckpointError, match="changed since the checkpoint"):
        other.resume(reader.position(0, 3))


@pytest.mark.parametrize("changes", [{}, {"requests": None}], ids=["requests", "rows"])
def test_rows_of_steps_are_those_that_are_no_padding(prepared, changes):
    readers = [prepared.reader(world_size=2, rank=r, **changes) for r in range(2)]
    for epoch in (0, 1):
        steps = list(zip(*(r.epoch(epoch) for r in readers), strict=True))
        for number, batches in enumerate(steps):
            real = sum(int(b.mask.sum()) for b in batches)
            assert {r.rows_of_step(epoch, number + 1) for r in readers} == {real}


def test_evaluation_reads_rows_in_order_and_tells_their_requests(prepared):
    reader = prepared.reader(requests=None, seed=None, lanes=1)
    batches = list(reader.epoch(0))
    assert [n for b in batches for n in numbers(b)] == list(range(prepared.rows))
    keys = torch.cat([b.requests[b.mask.bool()] for b in batches]).numpy()
    assert [len(set(keys[prepared.request_of == r])) for r in range(len(prepared.sizes))] == [1] * len(prepared.sizes)
    assert len(set(keys)) == len(prepared.sizes)


def test_a_request_over_many_row_groups_is_read_through_all_of_them(tmp_path):
    made = Prepared(tmp_path, [[3, 40, 1, 24, 2]], [5])
    assert made.requests.heads.tolist() == [0, 5, 5, 5, 5, 5, 5, 5, 3, 5, 5, 5, 5, 3]
    seen = made.check(list(made.reader(batch_size=40, lanes=2, window_rows=5).epoch(0)))
    assert sorted(seen) == list(range(made.rows))


def test_heads_of_row_groups_cost_no_second_read_of_the_rest(prepared, monkeypatch):
    """The second file's row group is cut into slices, which are read once from begin to end; heads take a few rows."""
    rows = Counter()
    whole, stream = raw.RawReader._whole, raw._Stream.read

    def counted_whole(self, group):
        rows["whole"] += self._sizes[group.file, group.group]
        return whole(self, group)

    def counted_stream(self, start, stop):
        before = self.at
        table = stream(self, start, stop)
        rows["streamed"] += self.at - before
        return table

    monkeypatch.setattr(raw.RawReader, "_whole", counted_whole)
    monkeypatch.setattr(raw._Stream, "read", counted_stream)
    reader = prepared.reader(memory_mb=of_memory(prepared, 60), threads=2)
    cut = [g for g in prepared.files.groups if g.rows > reader.sizes.whole_rows]
    assert len(cut) == 1
    prepared.check(list(reader.epoch(0)))
    heads = sum(prepared.requests.head_rows().values())
    assert rows["whole"] <= prepared.rows - cut[0].rows
    assert rows["streamed"] <= cut[0].rows + heads


@pytest.mark.parametrize("memory_mb", [1024, 0.02])
def test_bad_rows_are_padding_and_their_requests_go_on_without_them(tmp_path, memory_mb):
    made = Prepared(tmp_path, SIZES, GROUPS)
    bad, at = {4, 5, 6, 50, 180, 181}, 0
    for path in made.files.paths:
        table = pq.read_table(path)
        like = table.column("like").to_pylist()
        like = [9 if at + i in bad else value for i, value in enumerate(like)]
        at += len(like)
        table = table.set_column(table.schema.get_field_index("like"), "like", pa.array(like, pa.int8()))
        pq.write_table(table, path, row_group_size=pq.ParquetFile(path).metadata.row_group(0).num_rows)
    seen, counted = [], 0
    for rank in range(2):
        log = BadRowLog()
        reader = made.reader(bad_rows=log, world_size=2, rank=rank, memory_mb=memory_mb)
        batches = list(reader.epoch(0))
        assert len(batches) == made.reader(world_size=2, memory_mb=memory_mb).steps(0)
        for batch in batches:
            own = made.request_of[numbers(batch)]
            changes = 1 + int((own[1:] != own[:-1]).sum()) if len(own) else 0
            assert changes == len(set(own.tolist()))
            assert (batch.requests[len(own) :] == -1).all()
        seen += [n for b in batches for n in numbers(b)]
        counted += log.counts.total()
    assert Counter(seen) == Counter(set(range(made.rows)) - bad)
    assert counted == len(bad)


@pytest.mark.parametrize("memory", [8, 4000])
def test_a_sample_keeps_whole_requests(prepared, memory):
    changes = {"sample": {"part-[01]*": 0.5}, "memory_mb": of_memory(prepared, memory)}
    seen = prepared.check([b for r in range(2) for b in prepared.reader(**changes, world_size=2, rank=r).epoch(0)])
    assert len(seen) == len(set(seen))
    requests = set(prepared.request_of[seen].tolist())
    of_files = np.cumsum([0, *(len(s) for s in SIZES)])
    kept = [len([r for r in requests if a <= r < b]) for a, b in zip(of_files, of_files[1:], strict=False)]
    assert kept[2] == len(SIZES[2])
    assert abs(kept[1] - 16) <= 1
    assert 0 < kept[0] < 40
    again = prepared.check(list(prepared.reader(**changes).epoch(3)))
    assert sorted(again) == sorted(seen)
    reader = prepared.reader(**changes)
    whole = [numbers(b) for b in reader.epoch(0)]
    other = prepared.reader(**changes)
    other.resume(reader.position(0, 2))
    assert [numbers(b) for b in other.epoch(0)] == whole[2:]


def test_a_request_that_does_not_fit_in_a_batch_is_refused(tmp_path):
    made = Prepared(tmp_path, [[3, 4], [5, 17, 2]], [10, 4])
    message = r"batch_size = 16, but the largest request has 17 rows: .*part-1.parquet, row group 1, from row 1 on.* to 17 or"
    with pytest.raises(ConfigError, match=message):
        made.reader(batch_size=16)
    assert sorted(made.check(list(made.reader(batch_size=17).epoch(0)))) == list(range(made.rows))


def test_without_requests_batches_are_those_of_versions_before(tmp_path):
    """Digest of row numbers of two epochs, of a sample and of a resumed run, as versions before `data.request` read them."""
    data = make_numbered(tmp_path / "data", 523, (7, 600, 41))
    schema = make_schema()
    layout = build_layout(schema, load_config(make_config(tmp_path, data)))
    files = open_files(data / "train", schema, layout)

    def reader(**changes) -> Reader:
        return Reader(files, schema, layout, **{"batch_size": 16, "seed": 3, "lanes": 4, "window_rows": 60, **changes})

    resumed = reader(batch_size=8)
    resumed.resume(reader().position(0, 5))
    assert "bin_rows" not in reader().position(0, 5).to_json()
    read = [[numbers(b) for b in r.epoch(e)] for e in (0, 1) for r in (reader(), reader(sample={"part-00001*": 0.5}), resumed)]
    assert all(b.requests.shape == (0,) for b in reader().epoch(0))
    assert hashlib.sha256(repr(read).encode()).hexdigest()[:16] == "b28a9c45f8780cfe"
