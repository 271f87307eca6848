"""What others load: sharded safetensors, the rows that changed, a scoring program."""
