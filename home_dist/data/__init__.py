"""Parquet -> Batch: deterministic order, any number of ranks, exact resume."""

from home_dist.data.batch import Batch
from home_dist.data.files import DataFiles, open_files
from home_dist.data.reader import Reader, ReaderPosition

__all__ = ["Batch", "DataFiles", "Reader", "ReaderPosition", "open_files"]
