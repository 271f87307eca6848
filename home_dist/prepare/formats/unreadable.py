"""What is told of a file that cannot be read."""

from home_dist.errors import DataError
from home_dist.files.places import is_remote
from home_dist.files.remote import SourceFile, StoreError
from home_dist.files.stores import open_store, unreachable


def unreadable_file(path: SourceFile | str, error: Exception) -> DataError:
    if isinstance(error, OSError) and is_remote(str(path)):
        store, within = open_store(str(path))
        return StoreError(f"cannot read {unreachable(store, within, error)} The same command goes on where this one stopped.")
    reason = str(error).splitlines()[0]
    return DataError(f"{path}: cannot be read ({reason}). It may be truncated or of another format.")
