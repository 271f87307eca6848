"""Joins the side tables to the log: attributes of each impression's user and video."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from home_dist.errors import DataError
from home_dist.prepare.asof import Ints
from home_dist.prepare.days import DAY_MS
from home_dist.prepare.kuairand.files import USER_CATEGORIES, USER_NUMBERS, VIDEO_CATEGORIES, VIDEO_MONTH_COUNTS, KuaiRandTables
from home_dist.prepare.kuairand.log import Log
from home_dist.prepare.raw_tables import category_texts, int_column, match_rows

Texts = NDArray[np.str_]


@dataclass(frozen=True)
class Videos:
    """Ids and authors of the video table, (rows,) each, to be joined to impressions and to events of histories."""

    video: Ints
    author: Ints
    """-1: unknown"""

    def authors_of(self, videos: Ints) -> Ints:
        """(n,) authors of videos (n,), -1 where unknown."""
        return _at(self.author, match_rows(videos, self.video), -1)


@dataclass(frozen=True)
class Side:
    """Per impression (N,); -1 or an empty text where a value is unknown."""

    videos: Videos
    author: Ints
    music: Ints
    tag_offsets: Ints
    """(N + 1,) bounds of each impression's tags in `tags`."""
    tags: Texts
    first_tag: Ints
    """The first tag's number among all distinct tags."""
    categories: dict[str, Texts]
    """By column of the user and video tables."""
    upload_ms: Ints | None
    user_numbers: dict[str, NDArray[np.float64]]
    month_counts: dict[str, NDArray[np.float64]]
    users_missing: int
    """Number of impressions whose user is not in the user table."""
    videos_missing: int


def join_side(log: Log, source: KuaiRandTables, utc_offset_ms: int) -> Side:
    """Joins the side tables to the log. Raises DataError for a table that holds a key twice."""
    none = np.full(len(log), -1, np.int64)
    user_row = none if source.users is None else _rows(log.user, source.users, "user_id", "user_features")
    video_row = none if source.videos is None else _rows(log.video, source.videos, "video_id", "video_features_basic")
    categories = _categories(source.users, USER_CATEGORIES, user_row)
    categories.update(_categories(source.videos, VIDEO_CATEGORIES, video_row))
    offsets, tags, first = _tags(source.videos, video_row)
    month = source.month_statistics
    month_row = none if month is None else _rows(log.video, month, "video_id", "video_features_statistic")
    return Side(
        videos=_videos(source.videos),
        author=_whole_numbers(source.videos, "author_id", video_row),
        music=_whole_numbers(source.videos, "music_id", video_row),
        tag_offsets=offsets,
        tags=tags,
        first_tag=first,
        categories=categories,
        upload_ms=_upload(source.videos, video_row, utc_offset_ms),
        user_numbers={n: _numbers(source.users, n, user_row) for n in USER_NUMBERS if _has(source.users, n)},
        month_counts={n: _numbers(month, n, month_row) for n in VIDEO_MONTH_COUNTS if _has(month, n)},
        users_missing=0 if source.users is None else int((user_row < 0).sum()),
        videos_missing=0 if source.videos is None else int((video_row < 0).sum()),
    )


def _has(table: pa.Table | None, column: str) -> bool:
    return table is not None and column in table.column_names


def _rows(wanted: Ints, table: pa.Table, key: str, name: str) -> Ints:
    keys = int_column(table, key)
    values, counts = np.unique(keys, return_counts=True)
    if len(values) and counts.max() > 1:
        raise DataError(
            f"{name}: column {key!r} holds {values[counts.argmax()]} {counts.max()} times; one row per key is needed."
        )
    return match_rows(wanted, keys)


def _at(values: NDArray, rows: Ints, missing: float) -> NDArray:
    """values[rows], and `missing` where the row is -1."""
    if not len(values):
        return np.full(len(rows), missing, values.dtype)
    return np.where(rows >= 0, values[rows], missing).astype(values.dtype)


def _numbers(table: pa.Table | None, column: str, rows: Ints) -> NDArray[np.float64]:
    if table is None or column not in table.column_names:
        return np.full(len(rows), -1.0)
    return _at(np.asarray(pc.fill_null(table.column(column), -1.0), np.float64), rows, -1.0)


def _whole_numbers(table: pa.Table | None, column: str, rows: Ints) -> Ints:
    return _numbers(table, column, rows).astype(np.int64)


def _texts(table: pa.Table, column: str) -> Texts:
    return np.asarray(pc.fill_null(category_texts(table.column(column)), "").to_pylist(), dtype=np.str_)


def _categories(table: pa.Table | None, names: tuple[str, ...], rows: Ints) -> dict[str, Texts]:
    if table is None:
        return {}
    return {n: _at(_texts(table, n), rows, "") for n in names if n in table.column_names}  # type: ignore[arg-type]


def _videos(table: pa.Table | None) -> Videos:
    if table is None:
        return Videos(np.empty(0, np.int64), np.empty(0, np.int64))
    return Videos(int_column(table, "video_id"), int_column(table, "author_id"))


def _tags(table: pa.Table | None, rows: Ints) -> tuple[Ints, Texts, Ints]:
    """Splits the tags of a video, one text with commas, into offsets (N + 1,), texts, and the number of the first tag (N,)."""
    if table is None or "tag" not in table.column_names:
        return np.zeros(len(rows) + 1, np.int64), np.empty(0, np.str_), np.full(len(rows), -1, np.int64)
    # Unknown videos get one more row, which has no tags.
    column = pa.chunked_array([*table.column("tag").chunks, pa.array([""], pa.string())])
    split = pc.split_pattern(pc.fill_null(column, ""), ",").combine_chunks()
    split = split.take(pa.array(np.where(rows >= 0, rows, len(column) - 1)))
    texts = np.asarray(pc.utf8_trim_whitespace(split.flatten()).to_pylist(), dtype=np.str_)
    offsets = np.asarray(split.offsets).astype(np.int64) - split.offsets[0].as_py()
    filled = texts != ""
    kept = np.concatenate([[0], np.cumsum(filled)])[offsets]
    texts = texts[filled]
    numbers = np.unique(texts, return_inverse=True)[1] if len(texts) else np.empty(0, np.int64)
    first = np.full(len(rows), -1, np.int64)
    any_tag = np.diff(kept) > 0
    first[any_tag] = numbers[kept[:-1][any_tag]]
    return kept, texts, first


def _upload(table: pa.Table | None, rows: Ints, utc_offset_ms: int) -> Ints | None:
    """(N,) the first moment of the day of upload, -1 where unknown. Raises DataError for a text that is no date."""
    if table is None or "upload_dt" not in table.column_names:
        return None
    texts = _texts(table, "upload_dt")
    try:
        days = np.where(texts == "", np.datetime64("NaT"), texts.astype("datetime64[D]"))
    except ValueError as error:
        raise DataError(f"video_features_basic: column 'upload_dt': {error}; days as 2022-04-25 are needed.") from None
    known = ~np.isnat(days)
    moments = np.where(known, days.astype("datetime64[D]").astype(np.int64) * DAY_MS - utc_offset_ms, -1)
    return _at(moments, rows, -1)
