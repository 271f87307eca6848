"""Distributed, embedding-heavy training of multi-task ranking models of the HoME family."""

__version__ = "0.1.0"
