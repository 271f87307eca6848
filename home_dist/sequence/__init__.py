"""User history and target item -> one vector per sample, on jagged values."""
