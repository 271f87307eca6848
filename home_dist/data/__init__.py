"""Parquet -> Batch: deterministic order, any number of ranks, exact resume.

Three nouns: a *window* is a set of an epoch's row groups, whose rows are permuted together; a *fragment* is the part of a
window that one lane reads; *rows* are values that were read: raw (Arrow, of one row group), decoded (of a window), or
permuted (of a fragment).

With `data.request`, a window's rows are packed into *bins* of whole requests, and fragments count bins.

Names are imported on first use: `prepare fit` decodes columns with this room, and needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from home_dist.data.batch import Batch
    from home_dist.data.files import DataFiles, open_files
    from home_dist.data.position import ReaderPosition
    from home_dist.data.reader import Reader

__all__ = ["Batch", "DataFiles", "Reader", "ReaderPosition", "open_files"]

_MODULES = {"Batch": "batch", "DataFiles": "files", "open_files": "files", "Reader": "reader", "ReaderPosition": "position"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
