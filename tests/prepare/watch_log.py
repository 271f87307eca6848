"""A log with watch times: many zeros, a long tail, some unknown; durations, some missing; stars and languages."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from home_dist.prepare.days import DAY_MS

FIRST_DAY = 19_675
HEAD = """
log = "log/*"
user = "user"
time = "ms"
split = { train_days = 3, validation_days = 1, test_days = 1 }
train_files = 1
side = [{ files = "video.csv", key = "video" }]
id = [{ column = "user" }, { column = "video", min_count = 1 }]
number = [{ column = "length_ms", log = true }]
"""
NUMBER = '{ group = "watch", column = "play_ms", scale = 0.001, unit = "s", duration = "length_ms", bad = "unknown"'
LABELS = f"""
label = [
  {{ name = "like", group = "mark", column = "like" }},
  {NUMBER}, name = "seconds", kind = "regression", cap = 60 }},
  {NUMBER}, name = "part", kind = "duration_quantile", duration_groups = 4 }},
  {NUMBER}, name = "odds", kind = "weighted_logistic" }},
  {{ name = "level", group = "watch", column = "play_ms", scale = 0.001, unit = "s", kind = "ordinal", thresholds = 8 }},
  {{ name = "stars", group = "mark", column = "stars", kind = "multiclass", classes = [1, 2, 3, 4, 5] }},
  {{ name = "tongue", group = "mark", column = "tongue", kind = "multiclass", classes = ["zh", "en", "de"] }},
]
"""


def write_log(folder: Path, rows: int = 1500, seed: int = 0, labels: str = LABELS) -> Path:
    """Five days. Returns the description's path."""
    draw = np.random.default_rng(seed)
    video = draw.integers(0, 40, rows)
    length = np.where(np.arange(40) % 10 == 9, 0, 1000 * (5 + np.arange(40) % 12))
    interest = draw.normal(size=rows) + (video % 5 - 2) / 2
    play = np.where(interest > 0, length[video] * np.exp(interest - 1), 0).astype(np.int64)
    log = pa.table(
        {
            "user": draw.integers(0, 50, rows),
            "ms": FIRST_DAY * DAY_MS + draw.integers(0, 5 * DAY_MS, rows),
            "video": video,
            "like": (interest > 1).astype(np.int8),
            "play_ms": pa.array(play, mask=draw.random(rows) < 0.05),
            "stars": pa.array(np.clip(np.round(interest + 3), 1, 5).astype(int), mask=draw.random(rows) < 0.1),
            "tongue": draw.choice(["zh", "en", "de"], rows, p=[0.7, 0.2, 0.1]),
        }
    )
    (folder / "log").mkdir(parents=True)
    pq.write_table(log.slice(0, rows // 2), folder / "log/1.parquet")
    pq.write_table(log.slice(rows // 2), folder / "log/2.parquet")
    pacsv.write_csv(pa.table({"video": np.arange(40), "length_ms": length}), folder / "video.csv")
    (folder / "mylog.toml").write_text(HEAD + labels)
    return folder / "mylog.toml"


def raw_rows(folder: Path) -> list[dict]:
    """Rows of the log with their length, and `day`, 0 to 4."""
    length = {r["video"]: r["length_ms"] for r in pacsv.read_csv(folder / "video.csv").to_pylist()}
    rows = pa.concat_tables(pq.read_table(p) for p in sorted((folder / "log").glob("*.parquet"))).to_pylist()
    return [{**r, "length_ms": length.get(r["video"]), "day": r["ms"] // DAY_MS - FIRST_DAY} for r in rows]
