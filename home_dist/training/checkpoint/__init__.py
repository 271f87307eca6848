"""Sharded checkpoints that are whole or absent.

A checkpoint is a folder `step-00000123`: torch.distributed.checkpoint's files, one per rank, with tensors under names that tell
nothing of the sharding (contents.py); `state.json` with all else (state.py); and `manifest.json` with the size and SHA-256 of
every other file (manifest.py).
"""

from home_dist.training.checkpoint.folder import Checkpoints, read_record
from home_dist.training.checkpoint.loading import load, open_stored, read_offering, set_damaged_aside
from home_dist.training.checkpoint.saver import Saver
from home_dist.training.checkpoint.state import Record, TrainState

__all__ = [
    "Checkpoints",
    "Record",
    "Saver",
    "TrainState",
    "load",
    "open_stored",
    "read_offering",
    "read_record",
    "set_damaged_aside",
]
