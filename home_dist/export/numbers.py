"""Numbers and small ids of all columns in a few tensor operations; with some per column a program takes minutes to compile."""

from collections.abc import Sequence

import torch
from torch import nn

from home_dist.export.program_inputs import Input, id_name
from home_dist.schema import DenseFeature, InputLayout, StatisticFeature

Inputs = dict[str, torch.Tensor]


def picks(packed: Input | None, names: Sequence[str]) -> torch.Tensor:
    """(n,) where these inputs stand in the packed one."""
    there = [] if packed is None else [part.name for part in packed.parts]
    return torch.tensor([there.index(name) for name in names], dtype=torch.int64)


class SmallRows(nn.Module):
    """Rows (B, S) of replicated tables with one value per sample: ids as they are, numbers by their statistic's boundaries."""

    def __init__(self, layout: InputLayout, inputs: dict[str, Input]):
        super().__init__()
        small = layout.at("small")
        listed = [i for i in small if i.key not in layout.statistics]
        counted = [i for i in small if i.key in layout.statistics]
        self.listed, self.counted = len(listed), len(counted)
        limits = [layout.statistics[i.key].boundaries for i in counted]
        # A comparison with NaN is false: the boundaries of a statistic with fewer are filled up with it.
        boundaries = torch.full((len(limits), max(map(len, limits), default=0)), float("nan"), dtype=torch.float64)
        for row, limit in zip(boundaries, limits, strict=True):
            row[: len(limit)] = torch.tensor(limit, dtype=torch.float64)
        order = [small.index(i) for i in (*listed, *counted)]
        constants = {
            "boundaries": boundaries,
            "rows": torch.tensor([i.table.rows for i in listed], dtype=torch.int64),
            "of_ids": picks(inputs.get("ids"), [id_name(i) for i in listed]),
            "of_numbers": picks(inputs.get("numbers"), [f"number.{i.column}" for i in counted]),
            "order": torch.tensor(order, dtype=torch.int64).argsort(),
        }
        for name, values in constants.items():
            self.register_buffer(name, values, persistent=False)

    boundaries: torch.Tensor
    rows: torch.Tensor
    of_ids: torch.Tensor
    of_numbers: torch.Tensor
    order: torch.Tensor

    def forward(self, inputs: Inputs, samples: int) -> torch.Tensor:
        parts = []
        if self.listed:
            parts.append(within(inputs["ids"].index_select(1, self.of_ids), self.rows))
        if self.counted:
            values = inputs["numbers"].index_select(1, self.of_numbers)
            reached = (values.unsqueeze(2) >= self.boundaries).sum(2)
            parts.append(torch.where(values.isnan(), 0, reached + 1))
        return torch.cat(parts, 1).index_select(1, self.order) if parts else torch.zeros(samples, 0, dtype=torch.int64)


def within(ids: torch.Tensor, rows: torch.Tensor | int) -> torch.Tensor:
    """Ids, with 0 for those that are not 0 .. rows - 1."""
    return torch.where((ids >= 0) & (ids < rows), ids, 0)


class Standardised(nn.Module):
    """Dense values (B, dense width): statistics, whose nulls become means, and other numbers, with the layout's clip."""

    def __init__(self, layout: InputLayout, inputs: dict[str, Input]):
        super().__init__()
        self.clip = layout.clip
        single, wide = list[str](), list[str]()
        places, at = list[int](), 0
        later = list[int]()
        mean, std, of_null = list[float](), list[float](), list[float]()
        for feature in layout.dense:
            width = feature.width if isinstance(feature, DenseFeature) else 1
            (wide if width > 1 else single).append(f"{'vector' if width > 1 else 'number'}.{feature.column}")
            (later if width > 1 else places).extend(range(at, at + width))
            at += width
            mean += per_place(feature.mean, width)
            std += per_place(feature.std, width)
            of_null += per_place(feature.mean if isinstance(feature, StatisticFeature) else float("nan"), width)
        self.single, self.wide = len(single), wide
        self.register_buffer("of_numbers", picks(inputs.get("numbers"), single), persistent=False)
        order = torch.tensor([*places, *later], dtype=torch.int64).argsort()
        self.register_buffer("order", order, persistent=False)
        for name, values in {"mean": mean, "std": std, "of_null": of_null}.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float64), persistent=False)

    of_numbers: torch.Tensor
    order: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor
    of_null: torch.Tensor

    def forward(self, inputs: Inputs, samples: int) -> torch.Tensor:
        parts = [inputs["numbers"].index_select(1, self.of_numbers)] if self.single else []
        parts += [inputs[name] for name in self.wide]
        if not parts:
            return torch.zeros(samples, 0)
        values = torch.cat(parts, 1).index_select(1, self.order)
        standardised = (torch.where(values.isnan(), self.of_null, values) - self.mean) / self.std
        if self.clip is not None:
            standardised = standardised.clamp(-self.clip, self.clip)
        return standardised.float()


def per_place(value: float | tuple[float, ...], width: int) -> list[float]:
    """One for all places, or one per place."""
    return list(value) if isinstance(value, tuple) else [value] * width
