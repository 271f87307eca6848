"""home-dist: one file per group of commands. Each imports what it runs when it is run, so that the others start at once."""

from home_dist.cli.app import app, main

__all__ = ["app", "main"]
