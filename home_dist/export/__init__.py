"""Exports for other software: sharded safetensors, changed rows only, or a scoring program."""
