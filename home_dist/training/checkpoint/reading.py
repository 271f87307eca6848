"""Opens a checkpoint for reading in one process, without a model."""

import pickle
from pathlib import Path

from home_dist.training.checkpoint.folder import read_record
from home_dist.training.checkpoint.manifest import damaged, verify
from home_dist.training.checkpoint.pieces import METADATA, Stored
from home_dist.training.checkpoint.state import Record


def open_stored(checkpoint: Path) -> tuple[Stored, Record]:
    """Checks all files, then opens the checkpoint. Raises CheckpointError."""
    verify(checkpoint)
    return trusted(checkpoint), read_record(checkpoint)


def trusted(checkpoint: Path) -> Stored:
    """Opens a checkpoint whose files were already checked. Raises CheckpointError for malformed metadata."""
    try:
        return Stored(checkpoint)
    except (pickle.UnpicklingError, ValueError, OSError, EOFError, AttributeError, IndexError, KeyError, TypeError) as error:
        raise damaged(checkpoint, METADATA, f"{error}, so that it is not trusted") from None
