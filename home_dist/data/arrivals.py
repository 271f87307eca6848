"""Which files of a growing split have arrived: with `_SUCCESS` in their folder, or under the name that they keep."""

from home_dist.config import DataSection
from home_dist.files.listing import Found, data_files, list_files
from home_dist.files.stores import Store, join, open_store

_DONE = "_SUCCESS"


def arrived(data: DataSection) -> tuple[Store, list[Found]]:
    """All files of the training split that count, in the order of their names; none where nothing has come yet.

    Raises DataError for a folder that is not there or a store that does not answer.
    """
    store, path = open_store(join(data.path, data.train))
    base = path.rstrip("/")
    listed = list_files(store, base)
    found = data_files(listed)
    if data.follow == "success":
        done = {info.path.rpartition("/")[0] for info in listed if info.base_name == _DONE}
        found = [f for f in found if f.path.rpartition("/")[0] in done]
    return store, found
