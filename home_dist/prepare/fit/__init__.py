"""Parquet files and a draft of their schema -> vocabularies, boundaries and scales, fitted on the training part."""

from home_dist.prepare.fit.data_fit import fit_data

__all__ = ["fit_data"]
