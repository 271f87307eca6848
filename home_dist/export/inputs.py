"""What a scoring program takes, derived from the layout alone: an exported folder and its run derive the same."""

from dataclasses import dataclass
from typing import Literal

import torch

from home_dist.ids.rows import RowsOf
from home_dist.schema import DenseFeature, IdInput, InputLayout, PretrainedInput

Kind = Literal["ids", "number", "vector", "pretrained", "list", "weights", "lengths"]
_DTYPES = {"number": torch.float64, "vector": torch.float64, "pretrained": torch.float32, "weights": torch.float32}


@dataclass(frozen=True)
class Input:
    """One tensor. `column`: of the Parquet files, what it is read from; "" for lengths."""

    name: str
    kind: Kind
    column: str
    group: str | None = None
    """Of what runs through lists one after another: the lengths that belong to it. None for what has one entry per sample."""
    width: int = 1
    table: str | None = None
    """Whose rows it holds."""
    rows_of: RowsOf | None = None
    """Turns the column's values into rows; None for a column that holds rows."""
    pretrained: PretrainedInput | None = None

    @property
    def dtype(self) -> torch.dtype:
        return _DTYPES.get(self.kind, torch.int64)

    @property
    def shape(self) -> tuple[int, ...]:
        """Without the first dimension."""
        return (self.width,) if self.kind in ("vector", "pretrained") else ()


def id_name(item: IdInput) -> str:
    """Of a column that holds rows, by the column; else by table as well: two tables may read one column differently."""
    column = item.column if item.rows_of is None else f"{item.table.name}/{item.column}"
    return f"{'list' if item.is_list else 'ids'}.{column}"


def list_groups(layout: InputLayout) -> dict[str, str]:
    """By key of a list column: the group whose lengths it shares, a sequence's name or its own column."""
    fields = {e.field.key: s.name for s in layout.sequences for e in s.fields}
    return {i.key: fields.get(i.key, i.column) for i in layout.inputs if i.is_list}


def inputs_of(layout: InputLayout) -> dict[str, Input]:
    """By name, in the order in which a program takes them."""
    groups, found = list_groups(layout), list[Input]()
    for item in layout.inputs:
        if item.key in layout.statistics:
            found.append(Input(f"number.{item.column}", "number", item.column))
            continue
        group = groups.get(item.key)
        if group is not None:
            found.append(Input(f"lengths.{group}", "lengths", ""))
        kind: Kind = "list" if item.is_list else "ids"
        found.append(Input(id_name(item), kind, item.column, group, table=item.table.name, rows_of=item.rows_of))
        if item.weights is not None:
            found.append(Input(f"weights.{item.weights}", "weights", item.weights, group))
    for feature in layout.dense:
        if isinstance(feature, DenseFeature) and feature.width > 1:
            found.append(Input(f"vector.{feature.column}", "vector", feature.column, width=feature.width))
        else:
            found.append(Input(f"number.{feature.column}", "number", feature.column))
    for vectors in layout.pretrained:
        name = f"pretrained.{vectors.name}"
        found.append(Input(name, "pretrained", vectors.column, width=vectors.width + 1, pretrained=vectors))
    return {i.name: i for i in found}
