"""The scoring model: raw columns in, per-task probabilities out, on one device and without TorchRec's collections.

Inputs are by column of the Parquet files, as they stand there:

    "ids.COLUMN"          (B,) int64       an id feature with one id per sample
    "number.COLUMN"       (B,) float64     a statistic or a dense number; NaN where a statistic is null
    "vector.COLUMN"       (B, width) float64
    "list.COLUMN"         (N,) int64       all lists of a column one after another
    "lengths.GROUP"       (B,) int64       of the lists of a feature or, once, of the fields of a history

Ids outside of a table, as those that `keep_rows` cuts off, are looked up as row 0.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import JaggedTensor

from home_dist.errors import ConfigError
from home_dist.export.source import Source
from home_dist.network import Head
from home_dist.schema import DenseFeature, IdInput, InputLayout, StatisticFeature

Embeddings = Literal["fp32", "fp16", "int8"]
Inputs = dict[str, torch.Tensor]


class StoredTable(nn.Module):
    """Rows of a table. int8: each row is value * scale + lowest, both fp32, as FBGEMM's and Caffe2's row-wise 8 bits are."""

    values: torch.Tensor
    scale: torch.Tensor
    lowest: torch.Tensor

    def __init__(self, source: Source, table: str, kind: Embeddings):
        super().__init__()
        rows, dim = source.table_shape(table)
        self.rows, self.kind = rows, kind
        dtype = {"fp32": torch.float32, "fp16": torch.float16, "int8": torch.uint8}[kind]
        values = torch.empty(rows, dim, dtype=dtype)
        scale, lowest = torch.empty(rows, 1), torch.empty(rows, 1)
        first = 0
        for block in source.rows(table):
            part = slice(first, first + len(block))
            if kind == "int8":
                low = block.amin(1, keepdim=True)
                step = ((block.amax(1, keepdim=True) - low) / 255).clamp(min=1e-30)
                lowest[part], scale[part] = low, step
                values[part] = ((block - low) / step).round().clamp(0, 255).to(torch.uint8)
            else:
                values[part] = block.to(dtype)
            first += len(block)
        self.register_buffer("values", values)
        if kind == "int8":
            self.register_buffer("scale", scale)
            self.register_buffer("lowest", lowest)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids: (n,) -> (n, dim) float32."""
        found = nn.functional.embedding(ids, self.values).float()
        if self.kind == "int8":
            found = found * self.scale.index_select(0, ids) + self.lowest.index_select(0, ids)
        return found


class _Lists:
    """What the network's head asks of a KeyedJaggedTensor or KeyedTensor."""

    def __init__(self, found: dict[str, Any]):
        self.found = found

    def keys(self) -> list[str]:
        return list(self.found)

    def to_dict(self) -> dict[str, Any]:
        return self.found

    def values(self) -> torch.Tensor:
        return torch.cat(list(self.found.values()), 1)


@dataclass
class _Batch:
    small: torch.Tensor
    small_lists: _Lists
    events: _Lists
    dense: torch.Tensor


class Scorer(nn.Module):
    def __init__(self, source: Source, embeddings: Embeddings = "fp32"):
        """Raises ConfigError for a network that has parts which this module does not know."""
        super().__init__()
        self.layout: InputLayout = source.layout
        _refuse_unknown(source)
        self.tasks = [t.name for t in source.schema.task]
        self.head = Head(source.schema, source.layout, source.config)
        self.tables = nn.ModuleDict(
            {t.name: StoredTable(source, t.name, embeddings) for t in source.layout.tables if not t.replicated}
        )
        self._fill(source)
        self.groups = list_groups(source.layout)
        statistics = source.layout.statistics
        for key, feature in statistics.items():
            limits = torch.tensor(feature.boundaries, dtype=torch.float64)
            self.register_buffer(f"boundaries_{key}", limits, persistent=False)
        self.eval()
        self.requires_grad_(False)

    @torch.no_grad()
    def _fill(self, source: Source) -> None:
        state = self.head.state_dict()
        there = {n.removeprefix("dense/head.") for n in source.stored.tensors if n.startswith("dense/head.")}
        lone = sorted(set(state) ^ there)
        if lone:
            raise ConfigError(f"{source.checkpoint}: its dense part is not that of its configuration: {', '.join(lone[:5])}")
        for name, value in state.items():
            value.copy_(source.stored.whole(f"dense/head.{name}"))

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """(B, K) probabilities, tasks in the schema's order."""
        small = [self._small(i, inputs) for i in self.layout.at("small")]
        samples = self._samples(inputs)
        batch = _Batch(
            torch.stack(small, 1) if small else torch.zeros(samples, 0, dtype=torch.int64),
            _Lists({i.key: self._ids(i, inputs) for i in self.layout.at("small_list")}),
            _Lists({i.key: self._ids(i, inputs) for i in self.layout.at("event")}),
            self._dense(inputs, samples),
        )
        bags = {i.key: self._pooled(i, self._ids(i, inputs)) for i in self.layout.at("bag")}
        events = {i.key: self._looked_up(i, batch.events.found[i.key]) for i in self.layout.at("event")}
        v, _ = self.head.features(batch, _Lists(bags) if bags else None, None, events or None)
        return torch.sigmoid(self.head.logits(v, batch.dense, None))

    def _samples(self, inputs: Inputs) -> int:
        # Every network has a column with one value per sample, or the lengths of one with lists.
        name = next(n for n in inputs if not n.startswith("list."))
        return inputs[name].shape[0]

    def _small(self, item: IdInput, inputs: Inputs) -> torch.Tensor:
        if item.key not in self.layout.statistics:
            return _within(inputs[f"ids.{item.column}"], item)
        values = inputs[f"number.{item.column}"]
        bucket = torch.bucketize(values, getattr(self, f"boundaries_{item.key}"), right=True) + 1
        return torch.where(values.isnan(), 0, bucket)

    def _ids(self, item: IdInput, inputs: Inputs) -> JaggedTensor:
        if not item.is_list:
            ids = _within(inputs[f"ids.{item.column}"], item)
            return JaggedTensor(values=ids, lengths=torch.ones_like(ids))
        return JaggedTensor(
            values=_within(inputs[f"list.{item.column}"], item), lengths=inputs[f"lengths.{self.groups[item.key]}"]
        )

    def _looked_up(self, item: IdInput, ids: JaggedTensor) -> JaggedTensor:
        return JaggedTensor(values=self.tables[item.table.name](ids.values()), lengths=ids.lengths())

    def _pooled(self, item: IdInput, ids: JaggedTensor) -> torch.Tensor:
        """(B, dim)"""
        values, lengths = self._looked_up(item, ids).values(), ids.lengths()
        if not item.is_list:
            return values
        owners = torch.repeat_interleave(torch.arange(len(lengths)), lengths, output_size=len(values))
        total = values.new_zeros(len(lengths), values.shape[1]).index_add_(0, owners, values)
        return total / lengths.clamp(min=1).unsqueeze(1) if item.pooling == "mean" else total

    def _dense(self, inputs: Inputs, samples: int) -> torch.Tensor:
        parts = []
        for feature in self.layout.dense:
            wide = isinstance(feature, DenseFeature) and feature.width > 1
            values = inputs[f"vector.{feature.column}"] if wide else inputs[f"number.{feature.column}"].unsqueeze(1)
            if isinstance(feature, StatisticFeature):
                values = torch.where(values.isnan(), feature.mean, values)
            mean, std = (torch.tensor(x, dtype=values.dtype) for x in (feature.mean, feature.std))  # of all, or by place
            parts.append(((values - mean) / std).float())
        return torch.cat(parts, 1) if parts else torch.zeros(samples, 0)


def _refuse_unknown(source: Source) -> None:
    """Parts that a program does not compute yet."""
    for item in source.layout.inputs:
        what = ""
        if item.rows_of is not None:
            what = f"column {item.column!r} holds ids that a vocabulary or a hash turns into rows"
        elif item.weights is not None:
            what = f"column {item.column!r} is pooled with weights"
        elif item.place == "managed":
            what = f"table {item.table.name!r} has managed ids"
        if what:
            raise ConfigError(f"{source.checkpoint}: {what}, which a program cannot do yet. Use --format safetensors.")
    for pretrained in source.layout.pretrained:
        raise ConfigError(
            f"{source.checkpoint}: feature {pretrained.name!r} is pre-trained, which a program cannot do yet. "
            "Use --format safetensors."
        )


def _within(ids: torch.Tensor, item: IdInput) -> torch.Tensor:
    return torch.where((ids >= 0) & (ids < item.table.rows), ids, 0)


def list_groups(layout: InputLayout) -> dict[str, str]:
    """By key of a list column: the group whose lengths it shares, a sequence's name or its own column."""
    fields = {e.field.key: s.name for s in layout.sequences for e in s.fields}
    return {i.key: fields.get(i.key, i.column) for i in layout.inputs if i.is_list}


def input_names(layout: InputLayout) -> dict[str, str | None]:
    """All inputs of a program, each with the group that gives its first dimension; None for B."""
    groups, names = list_groups(layout), dict[str, str | None]()
    for item in layout.inputs:
        if item.key in layout.statistics:
            names[f"number.{item.column}"] = None
        elif item.is_list:
            names[f"lengths.{groups[item.key]}"] = None
            names[f"list.{item.column}"] = groups[item.key]
        else:
            names[f"ids.{item.column}"] = None
    for feature in layout.dense:
        wide = isinstance(feature, DenseFeature) and feature.width > 1
        names[f"vector.{feature.column}" if wide else f"number.{feature.column}"] = None
    return names
