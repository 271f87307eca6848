"""Versions of a model for servers, in open formats: full ones and deltas, with requests that prove them (docs/publish.md)."""
