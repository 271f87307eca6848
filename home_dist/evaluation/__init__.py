"""Scores of a split, its metrics exact over ranks, and their tables."""
