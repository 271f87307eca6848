"""Files of a growing split that have arrived: by `_SUCCESS` in their folder, or by their final name."""

from home_dist.config import DataSection
from home_dist.files.listing import Found, data_files, list_files
from home_dist.files.places import join
from home_dist.files.stores import Store, open_store

_DONE = "_SUCCESS"


def arrived(data: DataSection) -> tuple[Store, list[Found]]:
    """All files of the training split that have arrived, in the order of their names; none if there are none yet.

    Raises DataError for a missing folder or a store that does not answer.
    """
    store, path = open_store(join(data.path, data.train))
    base = path.rstrip("/")
    listed = list_files(store, base)
    files = data_files(listed)
    if data.follow == "success":
        done = {info.path.rpartition("/")[0] for info in listed if info.base_name == _DONE}
        files = [f for f in files if f.path.rpartition("/")[0] in done]
    return store, files
