"""The published KuaiRand layout: its files, and the columns of them that are read."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from home_dist.errors import DataError
from home_dist.prepare.raw_tables import Kind, find_files, read_tables

FLAGS = (
    "is_click",
    "is_like",
    "is_follow",
    "is_comment",
    "is_forward",
    "is_hate",
    "is_profile_enter",
    "long_view",
)
_LOG: dict[str, Kind] = dict.fromkeys(
    ("user_id", "video_id", "time_ms", *FLAGS, "play_time_ms", "duration_ms", "tab"), "integer"
)
_LOG_EXTRA: dict[str, Kind] = dict.fromkeys(("date", "hourmin", "profile_stay_time", "comment_stay_time", "is_rand"), "integer")
USER_NUMBERS = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
USER_CATEGORIES = (
    "user_active_degree",
    "is_lowactive_period",
    "is_live_streamer",
    "is_video_author",
    *(f"{name}_range" for name in USER_NUMBERS),
    *(f"onehot_feat{i}" for i in range(18)),
)
VIDEO_CATEGORIES = ("video_type", "upload_type", "visible_status", "music_type")
_VIDEO: dict[str, Kind] = {"video_id": "integer", "author_id": "integer"}
_VIDEO_EXTRA: dict[str, Kind] = {
    "upload_dt": "text",
    "music_id": "number",
    "tag": "text",
    **dict.fromkeys(VIDEO_CATEGORIES, "text"),
}
VIDEO_MONTH_COUNTS = (
    "show_cnt",
    "play_cnt",
    "complete_play_cnt",
    "valid_play_cnt",
    "long_time_play_cnt",
    "short_time_play_cnt",
    "like_cnt",
    "comment_cnt",
    "follow_cnt",
    "share_cnt",
    "download_cnt",
    "report_cnt",
    "collect_cnt",
    "play_progress",
)
_SEQUENCES: dict[str, Kind] = {
    "user_id": "integer",
    "last_time_ms": "integer",
    "watch_seq": "integers",
    "like_seq": "integers",
    "long_watch_seq": "integers",
}


@dataclass(frozen=True)
class KuaiRandTables:
    """Raw tables; None for files that the folder lacks."""

    log: pa.Table
    log_files: tuple[str, ...]
    users: pa.Table | None
    videos: pa.Table | None
    month_statistics: pa.Table | None
    sequences: pa.Table | None


def read_source(folder: Path, with_month_statistics: bool, say: Callable[[str], None]) -> KuaiRandTables:
    """Reads a folder in the published layout, or the `data` folder in it. Raises DataError for missing files and columns."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Give the folder that holds log_standard_*.csv.")
    folders = [folder, folder / "data"]
    logs = find_files(folders, "log_standard_") + find_files(folders, "log_random_")
    if not logs:
        raise DataError(
            f"{folder}: no log_standard_*.csv, .csv.gz or .parquet in it. Give the folder of an unpacked KuaiRand release."
        )

    def side(prefix: str, columns: dict[str, Kind], optional: dict[str, Kind] | None = None) -> pa.Table | None:
        paths = find_files(folders, prefix)
        if not paths:
            say(f"no {prefix}*: its features are left out")
            return None
        table = read_tables(paths, columns, optional)
        say(f"{', '.join(p.name for p in paths)}: {table.num_rows:,} rows")
        return table

    log = read_tables(logs, _LOG, _LOG_EXTRA)
    say(f"{', '.join(p.name for p in logs)}: {log.num_rows:,} rows")
    if not log.num_rows:
        raise DataError(f"{logs[0]}: the log holds no rows, only a header. Fetch it again.")
    month = None
    if with_month_statistics:
        month = side("video_features_statistic_", {"video_id": "integer"}, dict.fromkeys(VIDEO_MONTH_COUNTS, "number"))
        if month is None:
            raise DataError(
                f"{folder}: --use-future-video-statistics needs video_features_statistic_*, which is not there. "
                "Leave the option out."
            )
    return KuaiRandTables(
        log=log,
        log_files=tuple(p.name for p in logs),
        users=side(
            "user_features_",
            {"user_id": "integer"},
            {**dict.fromkeys(USER_CATEGORIES, "text"), **dict.fromkeys(USER_NUMBERS, "number")},
        ),
        videos=side("video_features_basic_", _VIDEO, _VIDEO_EXTRA),
        month_statistics=month,
        sequences=side("user_sequences_", _SEQUENCES, {"history_len": "integer"}),
    )
