"""Files on disk or in a store: files and folders that appear only when complete, listing, locks, remote file systems."""
