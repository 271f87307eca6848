"""A lock on a file, which the system takes away when the process ends, however it does."""

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
    """Within it no other process of any host that sees the same file system holds the lock.

    path: of a file, which is made where there is none; no folder, as NFS locks only what is open for writing. busy: what to
    raise when another process holds the lock; without it this one waits. On a file system without locks nothing is locked.
    Raises OSError when `path` cannot be opened.
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
