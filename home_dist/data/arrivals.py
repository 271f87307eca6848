"""Which files of a growing split have arrived: with `_SUCCESS` in their folder, or under the name that they keep."""

from home_dist.config import DataSection
from home_dist.data.sources import Found, Store, find_files, join, list_files, open_store
from home_dist.errors import DataError

_DONE = "_SUCCESS"


def arrived(data: DataSection) -> tuple[Store, list[Found]]:
    """All files of the training split that count, in the order of their names; none where nothing has come yet.

    Raises DataError for a folder that is not there or a store that does not answer.
    """
    place = join(data.path, data.train)
    store, path = open_store(place)
    listed = [info.path for info in list_files(store, path.rstrip("/"))]
    if not any(name.endswith(".parquet") for name in listed):
        return store, []
    try:
        store, found = find_files(place)
    except DataError:  # what is there has hidden names
        return store, []
    if data.follow == "success":
        done = {name.rpartition("/")[0] for name in listed if name.rpartition("/")[2] == _DONE}
        found = [f for f in found if f.path.rpartition("/")[0] in done]
    return store, found
