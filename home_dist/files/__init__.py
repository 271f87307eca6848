"""What is on a disk or in a store: files and folders that are whole or not there, listing, locks, remote file systems."""
