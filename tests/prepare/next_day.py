"""A log's next day, whose rows are all of one moment: they know nothing of each other, as requests do not."""

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from home_dist.prepare.days import DAY_MS, SPLITS
from home_dist.schema import load_schema
from tests.prepare.test_going_on import FIRST_DAY, prepare

DAYS = 4
MOMENT = (FIRST_DAY + DAYS) * DAY_MS - 8 * 3_600_000 + 7_200_000
ROWS = 400
OF_USER = ("user", "ms", "place")


OF_SIDE = ("author", "length", "tags")
"""Columns of the side table."""


def inputs_of(base):
    schema = load_schema(base.folder / "schema.toml")
    events = [e.column for s in schema.sequence for e in s.events]
    durations = [t.duration for t in schema.task if t.duration]
    return {"group", "time_ms", *(f.column for f in schema.feature), *events, *durations}


def next_day(folder):
    """Known and new users, videos and places, and missing ones; every third row has the user of the row before."""
    random = np.random.default_rng(1)
    users = random.integers(0, 40, ROWS)
    users[1::3] = users[0::3][: len(users[1::3])]
    log = pa.table(
        {
            "id": np.arange(ROWS),
            "user": pa.array([None if u % 17 == 0 else f"u{u}" for u in users.tolist()], pa.string()),
            "ms": np.full(ROWS, MOMENT),
            "video": random.integers(-1, 25, ROWS),
            "place": pa.array([None if p == 3 else f"place {p}" for p in random.integers(0, 7, ROWS)], pa.string()),
            "seconds": pa.array(np.round(random.exponential(4, ROWS), 3), mask=random.random(ROWS) < 0.1),
            "like": random.integers(0, 2, ROWS),
        }
    )
    return log.join(pacsv.read_csv(folder / "video.csv"), "video").sort_by("id")


def prepared_rows(folder, rows):
    """What a preparation that goes on from folder/data makes of `rows`, in their order."""
    logged = rows.drop_columns([n for n in OF_SIDE if n in rows.column_names and (folder / "video.csv").exists()])
    pq.write_table(logged, folder / "log" / "99.parquet")
    prepare(folder, "next", "data", keep=("id",), for_scores=True)
    splits = [folder / "next" / split for split in SPLITS]
    made = pa.concat_tables([pq.read_table(s) for s in splits if s.is_dir()]).sort_by("keep_id")
    assert made["keep_id"].to_pylist() == list(range(len(rows)))
    return made
