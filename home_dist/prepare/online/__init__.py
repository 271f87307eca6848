"""Columns of prepared data for rows that a model is asked about now, from the log's columns and the state of a preparation."""

from home_dist.prepare.online.given_columns import UnfitColumn
from home_dist.prepare.online.online_columns import OnlineColumns

__all__ = ["OnlineColumns", "UnfitColumn"]
