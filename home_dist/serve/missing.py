"""Ids without a row of their own: missing ones, and those that training did not keep."""

from collections.abc import Callable

import torch

from home_dist.export.managed_rows import ManagedRows
from home_dist.export.numbers import Inputs
from home_dist.export.program_inputs import id_name
from home_dist.schema import IdInput, InputLayout, Schema
from home_dist.schema.values import VocabularyValues

Ids = tuple[int, int]
"""(ids, ids without a row of their own)."""


class MissingIds:
    def __init__(self, schema: Schema, layout: InputLayout):
        self._unknown = {t.name: t.values.unknown_rows if isinstance(t.values, VocabularyValues) else 0 for t in schema.table}
        self._whole = {t.name for t in schema.table if t.values is None and t.origin is None}
        """Tables of hours, ages and the like, whose row 0 stands for a value as any other."""
        self._layout = layout

    def __call__(self, inputs: Inputs) -> dict[str, Ids]:
        """Of the features and history columns that `inputs` hold, by name, but for tables without ids; packed ones unpacked.
        A managed id reads the first row of its set where it has none; the id that owns this row counts as missing as well."""
        found: dict[str, Ids] = {}
        for item in self._layout.inputs:
            number = item.key in self._layout.statistics
            values = inputs.get(f"number.{item.column}" if number else id_name(item))
            if values is not None and item.table.name not in self._whole:
                missing = values.isnan() if number else self._test(item)(values)
                found[item.key] = len(values), int(missing.sum())
        return found

    def _test(self, item: IdInput) -> Callable[[torch.Tensor], torch.Tensor]:
        if isinstance(item.rows_of, ManagedRows):
            width = item.rows_of.sets.width
            return lambda rows: rows % width == 0
        unknown = self._unknown[item.table.name]
        return lambda rows: rows <= unknown
