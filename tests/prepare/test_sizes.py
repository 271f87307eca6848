"""Chunks and partitions of logs whose rows hold lists of events, against the bytes of such rows."""

import pyarrow as pa

from home_dist.prepare.generic.log_spec import LogSpec
from home_dist.prepare.generic.sizes import chunk_rows, partitions, room

SHARE, ROWS = 2 << 30, 10**9
SPEC = LogSpec.model_validate(
    {
        "log": "log/*",
        "user": "user",
        "time": "ms",
        "split": {"train_days": 1, "validation_days": 1, "test_days": 1},
        "label": [{"name": "like", "group": "a", "column": "like"}],
        "id": [{"column": "video"}, {"column": "shop"}],
        "history": [
            {
                "name": "h",
                "fields": ["video", "shop"],
                "most": 100,
                "events": {"column": "seen", "time": "at", "outcomes": ["x"]},
            }
        ],
    }
)


def of_events(count):
    """Bytes of a row's list."""
    event = {"video": 7, "shop": "a shop of some name", "at": 1, "x": 1}
    kind = pa.struct({"video": pa.int64(), "shop": pa.string(), "at": pa.int64(), "x": pa.int8()})
    return pa.array([[event] * count] * 100, pa.list_(kind)).nbytes / 100


def test_lists_of_events_fit():
    kind = pa.list_(pa.struct({"video": pa.int64(), "shop": pa.string(), "at": pa.int64(), "x": pa.int64()}))
    types = {"user": pa.int64(), "ms": pa.int64(), "video": pa.int64(), "shop": pa.string(), "like": pa.int64(), "seen": kind}
    chunk = chunk_rows(types, ROWS, SHARE, 4)
    assert room(SHARE) / 8 < chunk * of_events(200) < room(SHARE)
    rows = ROWS / partitions(SPEC, types, ROWS, SHARE, 4)
    assert room(SHARE) / 8 < rows * of_events(100) < room(SHARE)
