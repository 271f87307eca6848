"""A small log in the published KuaiRand layout, with what real ones have: repeated rows, unknown durations, gaps."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from home_dist.prepare.days import DAY_MS

START_MS = 1_650_816_000_000  # 2022-04-25, midnight in Beijing
DAYS = 6
USERS, VIDEOS = 12, 15


def make_log(rows: int = 400, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    # Coarse times, so that impressions of one moment are common.
    time = np.sort(START_MS + rng.integers(0, DAYS * 24, rows) * (DAY_MS // 24) + rng.integers(0, 3, rows) * 1000)
    duration = rng.choice([0, 5_000, 20_000, 90_000], rows, p=[0.1, 0.3, 0.3, 0.3])
    play = (rng.random(rows) * 1.5 * np.maximum(duration, 4_000)).astype(np.int64) * (rng.random(rows) < 0.8)
    rates = {"click": 0.5, "like": 0.2, "follow": 0.1, "comment": 0.1, "forward": 0.1, "hate": 0.05, "profile_enter": 0.2}
    columns = {
        "user_id": rng.integers(0, USERS, rows),
        "video_id": rng.integers(0, VIDEOS, rows),
        "date": np.full(rows, 20220425),
        "time_ms": time,
        **{f"is_{name}": (rng.random(rows) < rate).astype(np.int64) for name, rate in rates.items()},
        "long_view": (rng.random(rows) < 0.3).astype(np.int64),
        "play_time_ms": play,
        "duration_ms": duration,
        "tab": rng.integers(0, 4, rows),
    }
    repeated = rng.integers(0, rows, rows // 20)
    columns = {name: np.concatenate([values, values[repeated]]) for name, values in columns.items()}
    columns["is_like"][-1] ^= 1  # the last repetition differs from its twin
    return columns


def write_raw(folder: Path, log: dict[str, np.ndarray], side: bool = True, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pacsv.write_csv(pa.table(log), folder / "log_standard_4_25_to_5_08_small.csv")
    if side:
        for name, table in side_tables(seed).items():
            if name == "user_sequences":
                pq.write_table(table, folder / f"{name}_small.parquet")
            else:
                pacsv.write_csv(table, folder / f"{name}_small.csv")
    return folder


def side_tables(seed: int = 0) -> dict[str, pa.Table]:
    rng = np.random.default_rng(seed + 1)
    users, videos = np.arange(USERS - 2), np.arange(VIDEOS - 2)  # some are missing
    stored: list[dict[str, Any]] = []
    for user in range(0, USERS, 2):
        watched = rng.integers(0, VIDEOS, rng.integers(1, 6)).tolist()
        stored.append(
            {
                "user_id": user,
                "history_len": len(watched) + 3,
                # Of some users, the last stored event lies within the log's first hours.
                "last_time_ms": START_MS + int(rng.integers(-DAY_MS, DAY_MS // 4)),
                "watch_seq": watched,
                "like_seq": watched[:1],
                "long_watch_seq": watched[-2:],
            }
        )
    return {
        "user_features": pa.table(
            {
                "user_id": users,
                "user_active_degree": [["high", "low"][u % 2] for u in users],
                "follow_user_num": users * 10,
                "onehot_feat4": pa.array([None if u % 3 else 1.0 for u in users]),
            }
        ),
        "video_features_basic": pa.table(
            {
                "video_id": videos,
                "author_id": videos // 2 + 100,
                "upload_dt": ["2022-04-10"] * len(videos),
                "music_id": pa.array([None if v % 5 == 0 else float(v // 3) for v in videos]),
                "tag": [["1", "2,3", "3", None][v % 4] for v in videos],
            }
        ),
        "video_features_statistic": pa.table({"video_id": videos, "show_cnt": videos * 100.0}),
        "user_sequences": pa.Table.from_pylist(stored),
    }
