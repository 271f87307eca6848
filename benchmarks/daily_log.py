"""Logs of `daily.py`: the sample cut into a Parquet file per local day, and a small one with users and videos that drift."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
DAY_MS, UTC_OFFSET_MS = 86_400_000, 8 * 3_600_000
EFFECTIVE_MS = 7000
LENGTH_MS = (7_000, 15_000, 30_000, 60_000, 120_000)
"""Bounds between classes of video length, those of home_dist/prepare/kuairand."""


def write_kuairand(raw: Path, folder: Path) -> Path:
    """Writes folder/log/DAY.parquet, the side tables and the description beside them. Returns the description.

    raw: a folder in the published KuaiRand layout. A description cannot compare two columns, so that labels which compare play
    time with duration are written as columns; so are the class of a video's length and a video's first tag.
    """
    logs = sorted(raw.glob("log_standard_*"))
    if not logs:
        raise SystemExit(f"{raw}: no log_standard_* file. Give a folder in the published KuaiRand layout.")
    log = pa.concat_tables([pacsv.read_csv(path) for path in logs], promote_options="default")
    play, duration = log.column("play_time_ms"), log.column("duration_ms")
    complete = pc.greater_equal(play, duration)
    effective = pc.or_(pc.greater(play, EFFECTIVE_MS), complete)
    log = log.append_column("effective_view", effective.cast(pa.int8())).append_column(
        "complete_view", complete.cast(pa.int8())
    )
    length = np.searchsorted(LENGTH_MS, duration.to_numpy())
    log = log.append_column("length_class", pa.array(length, pa.int8(), mask=duration.to_numpy() <= 0))
    videos = pacsv.read_csv(
        next(raw.glob("video_features_basic_*")),
        convert_options=pacsv.ConvertOptions(column_types={"tag": pa.string()}, strings_can_be_null=True),
    )
    first = pc.list_element(pc.split_pattern(pc.fill_null(videos.column("tag"), ""), ","), 0)
    videos = videos.append_column("first_tag", pc.if_else(pc.equal(first, ""), None, first))
    _write(folder, log, {"videos": videos, "users": pacsv.read_csv(next(raw.glob("user_features_pure*")))})
    return Path(shutil.copy(HERE / "daily_kuairand.toml", folder / "description.toml"))


def write_drifting(folder: Path, days: int = 3, rows: int = 2000, seed: int = 0) -> Path:
    """As write_kuairand, of a log without a source: users with tastes, videos that come and go, two labels."""
    random = np.random.default_rng(seed)
    users, videos, width = 60 + 20 * days, 40 + 20 * days, 3
    tastes, contents = random.normal(size=(users, width)), random.normal(size=(videos, width))
    appeal = random.normal(size=videos)
    parts = []
    for day in range(days):
        user = random.integers(20 * day, 20 * day + 80, rows)
        video = random.integers(20 * day, 20 * day + 60, rows)
        wanted = (tastes[user] * contents[video]).sum(1) / np.sqrt(width) + appeal[video]
        start = (19_675 + day) * DAY_MS - UTC_OFFSET_MS
        parts.append(
            pa.table(
                {
                    "user_id": user,
                    "video_id": video,
                    "time_ms": start + np.sort(random.integers(0, DAY_MS, rows)),
                    "long_view": _drawn(random, 2 * wanted),
                    "is_like": _drawn(random, 2 * wanted - 2),
                }
            )
        )
    authors = pa.table({"video_id": np.arange(videos), "author_id": np.arange(videos) % 17})
    _write(folder, pa.concat_tables(parts), {"videos": authors})
    return Path(shutil.copy(HERE / "daily_quick.toml", folder / "description.toml"))


def _drawn(random: np.random.Generator, logits: NDArray[np.float64]) -> NDArray[np.int8]:
    return (random.random(len(logits)) < 1 / (1 + np.exp(-logits))).astype(np.int8)


def _write(folder: Path, log: pa.Table, sides: dict[str, pa.Table]) -> None:
    (folder / "log").mkdir(parents=True, exist_ok=True)
    day = (log.column("time_ms").to_numpy() + UTC_OFFSET_MS) // DAY_MS
    for number in np.unique(day):
        name = str(np.datetime64(int(number), "D"))
        pq.write_table(log.filter(pa.array(day == number)), folder / "log" / f"{name}.parquet")
    for name, table in sides.items():
        pq.write_table(table, folder / f"{name}.parquet")
