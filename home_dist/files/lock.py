"""A lock on a file. The system releases it when the process ends, however it ends."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from home_dist.errors import UserError

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@contextmanager
def locked(path: Path, busy: UserError | None = None) -> Iterator[None]:
    """Holds the lock within the block. No other process, on any host with the same file system, holds it meanwhile.

    path: a file, which is made if missing; not a folder, as NFS locks only files open for writing. busy: error to raise when
    another process holds the lock; without it, this process waits. On a file system without locks nothing is locked. Raises
    OSError when `path` cannot be opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy is not None else 0))
        except BlockingIOError:
            if busy is None:
                raise
            raise busy from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield
    finally:
        os.close(descriptor)
