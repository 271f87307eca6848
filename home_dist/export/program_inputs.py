"""Inputs of a scoring program, derived from the layout alone: an exported folder and its run derive the same inputs."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch

from home_dist.schema import DenseFeature, IdInput, InputLayout, PretrainedInput, StatisticFeature

Kind = Literal["ids", "number", "vector", "pretrained", "list", "weights", "lengths", "duration", "rows", "slots", "packed"]
_DTYPES = {
    "number": torch.float64,
    "vector": torch.float64,
    "pretrained": torch.float32,
    "weights": torch.float32,
    "duration": torch.float32,
    "rows": torch.float32,
}


@dataclass(frozen=True)
class Input:
    """One input tensor, and the column that it is read from."""

    name: str
    kind: Kind
    group: str | None = None
    """For jagged values (N,): the name of their lengths. None for tensors with one entry per sample."""
    width: int = 1
    item: IdInput | None = None
    """For ids, lists, weights, rows and slots."""
    feature: DenseFeature | StatisticFeature | None = None
    """For numbers and vectors; several features may share a number."""
    pretrained: PretrainedInput | None = None
    duration: str | None = None
    """Column of a duration."""
    parts: tuple["Input", ...] = ()
    """Of a packed input: inputs of one kind with one entry per sample, side by side along its second dimension. A program of
    few inputs is compiled faster, and called faster."""

    @property
    def column(self) -> str:
        """Column of the Parquet files; "" for lengths."""
        if self.kind == "weights" and self.item is not None:
            return self.item.weights or ""
        if self.duration is not None:
            return self.duration
        source = self.item or self.feature or self.pretrained
        return "" if source is None else source.column

    @property
    def dtype(self) -> torch.dtype:
        return self.parts[0].dtype if self.parts else _DTYPES.get(self.kind, torch.int64)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape without the first dimension."""
        if self.parts:
            return len(self.parts), *self.parts[0].shape
        return (self.width,) if self.kind in ("vector", "pretrained", "rows") else ()


def id_name(item: IdInput) -> str:
    """The input's name: of the column if it holds rows; else of table and column, as two tables may map one column's keys
    differently."""
    column = item.column if item.rows_of is None else f"{item.table.name}/{item.column}"
    return f"{'list' if item.is_list else 'ids'}.{column}"


def list_groups(layout: InputLayout) -> dict[str, str]:
    """By key of a list column: the name of its lengths, that is its sequence or, for a feature, its column."""
    fields = {e.field.key: s.name for s in layout.sequences for e in s.fields}
    return {i.key: fields.get(i.key, i.column) for i in layout.inputs if i.is_list}


def inputs_of(layout: InputLayout) -> dict[str, Input]:
    """Inputs by name, in the order in which a program takes them."""
    groups, inputs = list_groups(layout), list[Input]()
    for item in layout.inputs:
        statistic = layout.statistics.get(item.key)
        if statistic is not None:
            inputs.append(Input(f"number.{item.column}", "number", feature=statistic))
            continue
        group = groups.get(item.key)
        if group is not None:
            inputs.append(Input(f"lengths.{group}", "lengths"))
        inputs.append(Input(id_name(item), "list" if item.is_list else "ids", group, item=item))
        if item.weights is not None:
            inputs.append(Input(f"weights.{item.weights}", "weights", group, item=item))
    for feature in layout.dense:
        if isinstance(feature, DenseFeature) and feature.width > 1:
            inputs.append(Input(f"vector.{feature.column}", "vector", width=feature.width, feature=feature))
        else:
            inputs.append(Input(f"number.{feature.column}", "number", feature=feature))
    for vectors in layout.pretrained:
        inputs.append(Input(f"pretrained.{vectors.name}", "pretrained", width=vectors.width + 1, pretrained=vectors))
    inputs += [Input(f"duration.{column}", "duration", duration=column) for column in layout.durations]
    return packed(inputs)


def packed(inputs: Iterable[Input]) -> dict[str, Input]:
    """Inputs by name, with all numbers as "numbers", all ids of small tables as "ids", and their rows of a width as
    "rows.WIDTH"; others as they are."""
    groups: dict[str, dict[str, Input]] = {}
    for item in inputs:
        small = item.item is not None and item.item.place == "small"
        name = item.name
        if item.kind == "number":
            name = "numbers"
        elif item.kind == "ids" and small:
            name = "ids"
        elif item.kind == "rows" and small:
            name = f"rows.{item.width}"
        groups.setdefault(name, {})[item.name] = item
    return {
        name: members[name] if name in members else Input(name, "packed", parts=tuple(members.values()))
        for name, members in groups.items()
    }


def singles(inputs: dict[str, Input]) -> dict[str, Input]:
    """The inputs with the parts of packed ones in their place."""
    return {i.name: i for item in inputs.values() for i in (item.parts or (item,))}


def unpacked(tensors: dict[str, torch.Tensor], inputs: dict[str, Input]) -> dict[str, torch.Tensor]:
    """The tensors of these inputs, with those of the parts of packed ones in their place."""
    parts = {p.name: tensors[name][:, n] for name, i in inputs.items() if name in tensors for n, p in enumerate(i.parts)}
    return {name: value for name, value in tensors.items() if not inputs[name].parts} | parts
