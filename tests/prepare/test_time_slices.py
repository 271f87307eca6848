"""Slices of time: each holds its events in their order, and what is written grows with the events, not with their square."""

import numpy as np
import pyarrow as pa
import pytest

from home_dist.prepare.generic import time_slices
from home_dist.prepare.generic.time_slices import CODE, MomentSample, TimeSlices

PIECE = 64


def filled(folder, rows: int, seed: int = 0) -> tuple[TimeSlices, pa.Table]:
    random = np.random.default_rng(seed)
    whole = pa.table(
        {
            "row": np.arange(rows),
            "time": random.integers(0, rows, rows),
            "key_0": pa.array(random.integers(0, 5, rows)).cast(pa.string()),
        }
    )
    sample = MomentSample(PIECE)
    tables = [whole.slice(first, 50) for first in range(0, rows, 50)]
    for table in tables:
        sample.add(table["time"].to_numpy())
    slices = TimeSlices(folder / f"{rows}", sample.begins(), 1, False, PIECE)
    slices.fill(tables)
    return slices, whole


@pytest.mark.parametrize("fan_out", [2, 3, 32])
def test_a_slice_holds_its_events_in_order(fan_out, tmp_path, monkeypatch):
    monkeypatch.setattr(time_slices, "_FAN_OUT", fan_out)
    slices, whole = filled(tmp_path, 1500)
    time, row = whole["time"].to_numpy(), whole["row"].to_numpy()
    of = slices.of(time)
    assert len(slices) > 30
    for number in range(len(slices)):
        found = slices.read(number)
        own = row[of == number]
        assert sorted(found["row"].to_pylist()) == own.tolist()
        keys = slices.keys.keys(found[CODE].to_numpy())[0].to_pylist()
        assert keys == [whole["key_0"][r].as_py() for r in found["row"].to_pylist()]
        order = list(zip(found[CODE].to_pylist(), found["time"].to_pylist(), found["row"].to_pylist(), strict=True))
        assert order == sorted(order)


def test_batches_grow_with_events_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(time_slices, "_FAN_OUT", 4)
    per_slice = {}
    for rows in (2_000, 16_000):
        slices, _ = filled(tmp_path, rows)
        batches = 0
        for path in (tmp_path / f"{rows}").iterdir():
            with pa.OSFile(str(path)) as source:
                batches += pa.ipc.open_file(source).num_record_batches
        per_slice[rows] = batches / len(slices)
    assert per_slice[16_000] < 1.5 * per_slice[2_000]
    assert per_slice[16_000] < 4 * 4
