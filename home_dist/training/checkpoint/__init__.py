"""Sharded checkpoints that are whole or absent.

A checkpoint is a folder `step-00000123`: torch.distributed.checkpoint's files, one per rank, with tensors under names that tell
nothing of the sharding (contents.py); `state.json` with all else (state.py); and `manifest.json` with the size and SHA-256 of
every other file (manifest.py).
"""
