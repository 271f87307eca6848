"""Requests in the columns of the log that the model's data was prepared from (POST /predict/log)."""

from collections.abc import Collection
from pathlib import Path

from home_dist.prepare.generic.state import RECORD, STATE, Base
from home_dist.prepare.online import OnlineColumns, UnfitColumn
from home_dist.serve.request import RankingRequest, RefusedRequest


def open_online(meaning: Path, needed: Collection[str]) -> OnlineColumns | None:
    """meaning: the folder of a full version; needed: columns that its model reads. None if it holds no state of a preparation.
    Raises DataError for one that cannot be read."""
    if not (meaning / STATE / RECORD).is_file():
        return None
    return OnlineColumns(Base.open(meaning), needed)


def from_log(online: OnlineColumns, request: RankingRequest) -> RankingRequest:
    """Raises RefusedRequest for a column that is missing or does not fit."""
    try:
        made = RankingRequest(*online.of(request.user, request.candidates))
    except UnfitColumn as error:
        raise RefusedRequest(422, str(error), error.column) from None
    given = {*request.user.column_names, *request.candidates.column_names}
    for name, column in online.durations.items():
        if name not in given and any(name in t.column_names and t[name].null_count for t in (made.user, made.candidates)):
            raise RefusedRequest(422, f"column {column!r} holds a duration that is null, not finite or not above 0", column)
    return made
