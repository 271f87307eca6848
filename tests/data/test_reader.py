"""The reader against the files' own rows, looked up one by one."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings

from home_dist.config import load_config
from home_dist.data import Reader, open_files
from home_dist.errors import CheckpointError, DataError
from home_dist.schema import build_layout, load_schema
from tests.data.numbered import make_numbered, numbers, read_in_stages
from tests.factory import make_config


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reader")
    data = make_numbered(folder / "data", 307, (20, 20, 20))
    config = load_config(make_config(folder, data))
    schema = load_schema(config.schema_path())
    layout = build_layout(schema, config)
    whole = pq.read_table(data / "train").to_pylist()
    return schema, layout, open_files(data / "train", schema, layout), whole


def make_reader(prepared, **changes) -> Reader:
    schema, layout, files, _ = prepared
    return Reader(files, schema, layout, **{"batch_size": 16, "seed": 3, "lanes": 4, "window_rows": 60, **changes})


def test_every_input_of_every_sample_is_that_of_its_row(prepared):
    *_, whole = prepared
    seen = []
    for batch in make_reader(prepared).epoch(1):
        bags, events, lists = batch.bags.to_dict(), batch.events.to_dict(), batch.small_lists.to_dict()
        for place, number in enumerate(numbers(batch)):
            row = whole[number]
            seen.append(number)
            assert bags["user"].to_dense()[place].tolist() == [row["user"]]
            assert bags["tags"].to_dense()[place].tolist() == row["tags"]
            assert events["video"].to_dense()[place].tolist() == [row["video"]]
            assert events["watched/watched_video"].to_dense()[place].tolist() == row["watched_video"]
            assert lists["watched/watched_level"].to_dense()[place].tolist() == row["watched_level"]
            assert lists["levels"].to_dense()[place].tolist() == row["levels"]
            bucket = 0 if row["rate"] is None else 1 + sum(row["rate"] >= b for b in (-1.0, 0.0, 1.0))
            assert batch.small[place].tolist() == [row["tab"], bucket]
            rate = 0 if row["rate"] is None else (row["rate"] - 0.1) / 2
            expected = torch.tensor([rate, (number - 5) / 3, *row["vector"]])
            torch.testing.assert_close(batch.dense[place], expected, rtol=1e-5, atol=1e-5)
            assert batch.labels[place].tolist() == [row["like"], row["follow"], row["watch"]]
            assert batch.weights[place].tolist() == [1, 1, row["watch_weight"]]
            assert batch.groups[place] == row["user_key"]
    assert sorted(seen) == list(range(307))
    assert seen != sorted(seen)


def test_files_may_hold_a_column_in_different_types(prepared, tmp_path):
    """All of them in one window."""
    schema, layout, files, _ = prepared
    plain = pq.read_table(files.paths[0]).slice(0, 40)
    other = {
        "like": pa.bool_(),
        "follow": pa.float32(),
        "video": pa.uint64(),
        "rate": pa.float32(),
        "vector": pa.list_(pa.float32(), 3),
        "tags": pa.large_list(pa.int64()),
    }
    changed = plain
    for column, dtype in other.items():
        changed = changed.set_column(plain.schema.get_field_index(column), column, plain.column(column).cast(dtype))
    for name, table in (("a", plain), ("b", changed)):
        (tmp_path / name).mkdir()
        pq.write_table(table, tmp_path / name / f"{name}.parquet")
    both = Reader(open_files(tmp_path, schema, layout), schema, layout, batch_size=40)
    first, second = both.epoch(0)
    for ours in (first, second):
        assert numbers(ours) == numbers(first)
        torch.testing.assert_close(ours.dense, first.dense)
        assert ours.labels.equal(first.labels)
        assert ours.small.equal(first.small)
        for at in ("bags", "events", "small_lists"):
            assert getattr(ours, at).values().equal(getattr(first, at).values())


def test_a_file_without_rows_is_passed_over_and_one_without_bytes_is_damaged(prepared, tmp_path):
    """Writers of other programs leave files without rows, whose columns have no types or are not there at all."""
    schema, layout, files, _ = prepared
    folder = Path(files.paths[0]).parent
    for path in folder.iterdir():
        shutil.copy(path, tmp_path)
    columns = pq.read_schema(files.paths[0]).names
    pq.write_table(pa.table({name: pa.nulls(0) for name in columns}), tmp_path / "a-empty.parquet")
    pq.write_table(pa.table({}), tmp_path / "z-empty.parquet")
    with_empty = open_files(tmp_path, schema, layout)
    assert with_empty.rows == files.rows
    reader = Reader(with_empty, schema, layout, batch_size=64, seed=0, window_rows=30)
    assert sum(int(batch.mask.sum()) for batch in reader.epoch(0)) == files.rows
    (tmp_path / "b.parquet").touch()
    with pytest.raises(DataError, match=r"b.parquet: the file is empty \(0 bytes\)"):
        open_files(tmp_path, schema, layout)
    (tmp_path / "only").mkdir()
    (tmp_path / "a-empty.parquet").rename(tmp_path / "only" / "a.parquet")
    with pytest.raises(DataError, match="its 1 Parquet files hold no rows"):
        open_files(tmp_path / "only", schema, layout)


def test_filled_samples_are_masked_and_touch_no_table(prepared):
    *_, last = make_reader(prepared).epoch(0)
    real = int(last.mask.sum())
    assert 0 < real < last.size
    assert last.mask.tolist() == [1] * real + [0] * (last.size - real)
    assert (last.weights[real:] == 0).all()
    for ids in (last.bags, last.events, last.small_lists):
        assert (ids.lengths().view(len(ids.keys()), -1)[:, real:] == 0).all()


def test_unshuffled_rows_come_in_the_files_order(prepared):
    read = [n for b in make_reader(prepared, seed=None, lanes=1).epoch(0) for n in numbers(b)]
    assert read == list(range(307))


def test_epochs_in_a_row_are_each_epoch(prepared):
    reader = make_reader(prepared)
    together = [(b.epoch, b.step, numbers(b)) for b in reader.epochs(0, 2)]
    apart = [(b.epoch, b.step, numbers(b)) for e in (0, 1) for b in reader.epoch(e)]
    assert together == apart
    assert [t[1] for t in together] == [*range(1, reader.steps(0) + 1), *range(1, reader.steps(1) + 1)]


@settings(max_examples=40, deadline=None)
@given(
    stages=st.lists(
        st.tuples(st.sampled_from([1, 2, 3, 5]), st.integers(1, 40), st.integers(0, 8), st.sampled_from([1, 4, 6])),
        min_size=1,
        max_size=4,
    )
)
def test_stops_and_other_numbers_of_ranks_lose_and_repeat_nothing(prepared, stages):
    """A stage: (ranks, batch size, steps until the stop, lanes)."""

    def stage(ranks: int, batch_size: int, stop: int, lanes: int):
        changes = {"batch_size": batch_size, "world_size": ranks, "lanes": lanes}
        return ranks, stop, lambda rank: make_reader(prepared, rank=rank, **changes)

    assert read_in_stages([stage(*s) for s in stages]) == Counter(range(307))


def test_the_same_ranks_go_on_with_the_same_batches(prepared):
    whole = [numbers(b) for b in make_reader(prepared).epoch(0)]
    reader = make_reader(prepared)
    reader.resume(make_reader(prepared).position(0, 7))
    assert [numbers(b) for b in reader.epoch(0)] == whole[7:]
    assert reader.steps(0) == len(whole)


def test_changed_files_within_an_epoch_are_refused(prepared):
    reader = make_reader(prepared)
    other = replace(reader.position(0, 3), fingerprint="another")
    with pytest.raises(CheckpointError, match="changed since the checkpoint"):
        reader.resume(other)
    reader.resume(replace(other, steps=0))  # at an epoch's begin nothing refers to the files


def test_leaving_an_epoch_early_ends_its_thread(prepared):
    import threading

    before = threading.active_count()
    for batch in make_reader(prepared, prefetch=1).epoch(0):
        assert batch.step == 1
        break
    assert threading.active_count() == before


def test_batches_that_are_kept_are_not_written_over(prepared, monkeypatch):
    """Their memory is used again (buffers.py) only when they are gone."""
    monkeypatch.setattr("home_dist.data.buffers._SMALL", 1)
    reader = make_reader(prepared, threads=3)
    kept = [batch for epoch in range(3) for batch in reader.epoch(epoch)]
    monkeypatch.setattr("home_dist.data.buffers._SMALL", 1 << 40)
    plain = make_reader(prepared)
    for epoch in range(3):
        for batch in plain.epoch(epoch):
            again = kept.pop(0)
            for name in ("bags", "events", "small_lists", "weighted_bags", "managed"):
                expected, found = getattr(batch, name), getattr(again, name)
                assert torch.equal(found.values(), expected.values())
                assert torch.equal(found.lengths(), expected.lengths())
            for name in ("small", "dense", "vectors", "labels", "weights", "mask", "groups", "durations"):
                assert torch.equal(getattr(again, name), getattr(batch, name)), name
    assert not kept
    assert reader.buffers.idle() > 0
