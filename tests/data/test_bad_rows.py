"""Rows that cannot be used: refused by name, or left out, counted and written down."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from home_dist.config import load_config
from home_dist.data import Reader, open_files
from home_dist.data.bad_rows import BadRow, BadRowLog
from home_dist.errors import DataError
from home_dist.schema import build_layout, load_schema
from tests.data.numbered import numbers
from tests.factory import make_config, make_data

BAD = {  # row: column, value, why
    3: ("like", 2, "label neither 0 nor 1"),
    57: ("video", -1, "id outside of table 'video'"),
    58: ("like", None, "null where a value is needed. Fill it in the pipeline"),
    120: ("tags", [3, 1500], "id outside of table 'tag'"),
    121: (
        "watched_video",
        [1, 2, 3, 4, 5, 6, 7],
        "its lists differ in length from those of 'watched_video', with which",
    ),
    122: ("vector", [1.0, 2.0], "lists of 3 numbers are needed"),
    140: ("rate", float("nan"), "NaN or infinite. Write null where a value is not known"),
    149: ("watch_weight", -1.0, "a label weight is negative or not finite. Use 0 where there is no label"),
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    data = make_data(folder / "data", rows=150, files=2, splits=("train",))
    config = load_config(make_config(folder, data))
    schema = load_schema(config.schema_path())
    files = sorted((data / "train").glob("*.parquet"))
    rows = [row for path in files for row in pq.read_table(path).to_pylist()]
    for number, row in enumerate(rows):
        row["age"] = float(number)
    for number, (column, value, _) in BAD.items():
        rows[number][column] = value
    there = pq.read_schema(files[0])
    for path, part in zip(files, (rows[:75], rows[75:]), strict=True):
        pq.write_table(pa.Table.from_pylist(part, schema=there), path, row_group_size=25)
    layout = build_layout(schema, config)
    return open_files(data / "train", schema, layout), schema, layout


def make_reader(prepared, **changes) -> Reader:
    return Reader(*prepared, **{"batch_size": 8, "seed": 3, "lanes": 6, "window_rows": 40, **changes})


def test_they_are_errors_by_default(prepared):
    with pytest.raises(DataError, match=r"0\d.parquet: column '.*': .*\(first in row \d+ of its row group; \d+ in all\)"):
        list(make_reader(prepared).epoch(0))


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("memory_mb", [1024, 0.02])
def test_all_others_are_read_once_and_the_steps_stay(prepared, world, memory_mb):
    seen, steps, counts = [], set(), {}
    for rank in range(world):
        log = BadRowLog()
        reader = make_reader(prepared, rank=rank, world_size=world, bad_rows=log, memory_mb=memory_mb, threads=2)
        batches = list(reader.epoch(0))
        steps.add(len(batches))
        assert len(batches) == reader.steps(0) == -(-150 // (8 * world))
        for batch in batches:
            seen += numbers(batch)
            real = int(batch.mask.sum())
            assert batch.mask.tolist() == [1] * real + [0] * (8 - real)
            assert (batch.weights[real:] == 0).all()
            assert batch.bags.lengths().view(-1, 8)[:, real:].sum() == 0
        for reason, count in log.counts.items():
            counts[reason] = counts.get(reason, 0) + count
    assert sorted(seen) == sorted(set(range(150)) - set(BAD))
    assert len(steps) == 1
    assert sum(counts.values()) == len(BAD)  # on all ranks together, each once
    assert counts["like: label neither 0 nor 1"] == 1


def test_good_rows_are_those_that_they_would_be(prepared):
    """Against the rows of the file, one by one."""
    whole = [row for path in prepared[0].paths for row in pq.read_table(path).to_pylist()]
    for batch in make_reader(prepared, bad_rows=BadRowLog()).epoch(0):
        videos = batch.events.to_dict()["watched/watched_video"].to_dense()
        for place, number in enumerate(numbers(batch)):
            assert videos[place].tolist() == whole[number]["watched_video"]
            assert batch.labels[place, 0] == whole[number]["like"]
            assert batch.groups[place] == whole[number]["user_key"]


def test_a_resumed_run_goes_on_with_the_same_batches(prepared):
    reader = make_reader(prepared, bad_rows=BadRowLog())
    whole = [numbers(b) for b in reader.epoch(0)]
    other = make_reader(prepared, bad_rows=BadRowLog())
    other.resume(reader.position(0, 5))
    assert [numbers(b) for b in other.epoch(0)] == whole[5:]


def test_quarantined_rows_are_written_once_through_epochs_and_restarts(prepared, tmp_path):
    for world in (1, 2):
        for rank in range(world):
            file = tmp_path / "quarantine" / f"train.rank-{rank:05d}.jsonl"
            reader = make_reader(prepared, rank=rank, world_size=world, bad_rows=BadRowLog(file))
            for epoch in (0, 1):
                list(reader.epoch(epoch))
    lines = [json.loads(line) for path in tmp_path.rglob("*.jsonl") for line in path.read_text().splitlines()]
    assert len(lines) == len(BAD)
    for line in lines:
        number = 75 * ("part-00001" in line["file"]) + 25 * line["row_group"] + line["row"]
        column, value, reason = BAD[number]
        if column == "watched_video":
            column, value = "watched_level", None  # the field that is found to differ
        assert line["column"] == column
        assert reason in line["reason"]
        assert value is None or line["value"] == repr(value)


def test_a_window_without_a_good_row(prepared, tmp_path):
    files, schema, layout = prepared
    table = pq.read_table(files.paths[0])
    bad = table.set_column(table.schema.get_field_index("like"), "like", pa.array(np.full(75, 9, np.int8)))
    pq.write_table(bad, tmp_path / "bad.parquet", row_group_size=25)
    log = BadRowLog()
    reader = Reader(open_files(tmp_path, schema, layout), schema, layout, batch_size=8, seed=1, bad_rows=log)
    assert sum(int(b.mask.sum()) for b in reader.epoch(0)) == 0
    assert log.counts.total() == 75


@pytest.mark.parametrize("cut", [1, 30, 2000])
def test_a_line_that_a_killed_process_left_half_does_not_swallow_the_next(tmp_path, cut):
    """cut: bytes that are missing at the end; with the first, only the line's end is."""
    path = tmp_path / "train.rank-00000.jsonl"
    first, second, third = (BadRow("part-0.parquet", 0, n, "like", "label neither 0 nor 1", "2") for n in range(3))
    BadRowLog(path).add([first, second])
    content = path.read_bytes()
    path.write_bytes(content[: max(0, len(content) - cut)])
    for _ in range(2):  # the second time all of them are there already
        BadRowLog(path).add([first, second, third])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["row"] for line in lines] == [0, 1, 2]
