"""Sharded checkpoints that are whole or absent.

A checkpoint is a folder `step-00000123` with three kinds of files: torch.distributed.checkpoint's, one per rank, whose tensor
names do not depend on the sharding (contents.py); `state.json` with everything but tensors (state.py); `manifest.json` with the
size and SHA-256 of every other file (manifest.py).
"""
