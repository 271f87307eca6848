"""Memory that preparations may take unless they are told otherwise."""

MEMORY_BYTES = 2 << 30
"""Of all processes together; what does not fit waits on disk."""
