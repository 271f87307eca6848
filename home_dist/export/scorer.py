"""The scoring model: raw columns in, per-task predictions out, on one device and without TorchRec's collections.

Inputs are columns of the Parquet files, with their values unchanged:

    "ids.COLUMN"          (B,) int64       an id feature with one id per sample
    "number.COLUMN"       (B,) float64     a statistic or a dense number; NaN where a statistic is null
    "vector.COLUMN"       (B, width) float64
    "list.COLUMN"         (N,) int64       values of all lists of a column, one list after another
    "weights.COLUMN"      (N,) float32     weights of a weighted list's values
    "lengths.GROUP"       (B,) int64       lengths of the lists of a feature, or of all fields of a history
    "pretrained.FEATURE"  (B, width + 1) float32    its vector, and 1 where it is missing
    "duration.COLUMN"     (B,) float32     the item's duration, for tasks that are learned by it

Columns of raw ids, whose table has a vocabulary, a hash or managed ids, are "ids.TABLE/COLUMN" and "list.TABLE/COLUMN". The
program takes their rows, since texts are no tensors; columns.py maps ids to rows. Ids outside of a table, such as those that
`keep_rows` cuts off, read row 0.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import JaggedTensor

from home_dist.config import RunConfig
from home_dist.embeddings.pooling import pooled
from home_dist.errors import ConfigError
from home_dist.export.program_inputs import id_name, list_groups
from home_dist.export.users import UsersOfRows
from home_dist.network import Head
from home_dist.schema import DenseFeature, IdInput, InputLayout, Schema, StatisticFeature
from home_dist.schema.layout import ONE_BY_ONE, Place

Embeddings = Literal["fp32", "fp16", "int8"]
Inputs = dict[str, torch.Tensor]
POOLED: tuple[Place, ...] = ("bag", "weighted_bag")
LOOKED_UP: tuple[Place, ...] = (*POOLED, *ONE_BY_ONE)
PLACES: tuple[Place, ...] = ("small_list", *LOOKED_UP)


class Weights(Protocol):
    """What a scoring model is filled from: a checkpoint (source.py), or a published version."""

    @property
    def shown(self) -> str:
        """Its place, for messages."""

    @property
    def config(self) -> RunConfig: ...

    @property
    def schema(self) -> Schema: ...

    @property
    def layout(self) -> InputLayout: ...

    @property
    def averaged(self) -> bool:
        """Whether averages of the head's parameters take the parameters' place."""

    def table_shape(self, table: str) -> tuple[int, int]: ...

    def rows(self, table: str) -> Iterator[torch.Tensor]:
        """A table's rows in order, as blocks (n, dim)."""

    def head_names(self) -> set[str]:
        """Names of the tensors of the network's head."""

    def head_tensor(self, name: str) -> torch.Tensor: ...


class StoredTable(nn.Module):
    """Rows of a table. int8: a row is value * scale + lowest, with both in fp32 per row, as in FBGEMM and Caffe2."""

    values: torch.Tensor
    scale: torch.Tensor
    lowest: torch.Tensor

    def __init__(self, source: Weights, table: str, kind: Embeddings):
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
        looked_up = nn.functional.embedding(ids, self.values).float()
        if self.kind == "int8":
            looked_up = looked_up * self.scale.index_select(0, ids) + self.lowest.index_select(0, ids)
        return looked_up


class _Lists:
    """The methods of KeyedJaggedTensor and KeyedTensor that the network's head calls."""

    def __init__(self, by_key: dict[str, Any]):
        self.by_key = by_key

    def keys(self) -> list[str]:
        return list(self.by_key)

    def to_dict(self) -> dict[str, Any]:
        return self.by_key

    def values(self) -> torch.Tensor:
        return torch.cat(list(self.by_key.values()), 1)


@dataclass
class _Batch:
    """The fields of a Batch that the network's head reads."""

    small: torch.Tensor
    small_lists: _Lists
    events: _Lists
    managed: _Lists
    list_weights: _Lists
    dense: torch.Tensor
    vectors: torch.Tensor
    firsts: torch.Tensor
    on_host: None = None


class Scorer(nn.Module):
    def __init__(self, source: Weights, embeddings: Embeddings = "fp32"):
        """Raises ConfigError for tensors that do not fit their configuration."""
        super().__init__()
        self.layout: InputLayout = source.layout
        self.tasks = [t.name for t in source.schema.task]
        self.head = Head(source.schema, source.layout, source.config)
        self.names = list(self.head.objectives.names)
        """(P,) names of the predictions: of a task, or of a task and its class."""
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
    def _fill(self, source: Weights) -> None:
        state = self.head.state_dict()
        unmatched = sorted(set(state) ^ source.head_names())
        if unmatched:
            raise ConfigError(f"{source.shown}: its dense part is not that of its configuration: {', '.join(unmatched[:5])}")
        for name, value in state.items():
            value.copy_(source.head_tensor(name))
        if self.head.averages is not None:
            if source.averaged:
                self.head.averages.fill(self.head)
            self.head.averages = None  # a program needs no second copy

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """(B, P): probabilities, or predictions in the label's unit; tasks in the schema's order, see `names`."""
        return self.predicted(inputs)

    def predicted(self, inputs: Inputs, users: UsersOfRows | None = None) -> torch.Tensor:
        """As `forward`. users: of the rows, where several have one user: inputs that it names hold an entry per user."""
        small = [self._small(i, inputs) for i in self.layout.at("small")]
        samples = self._samples(inputs) if users is None else users.samples
        lists = {place: {i.key: self._ids(i, inputs) for i in self.layout.at(place)} for place in PLACES}
        weights = {i.key: self._weights(i, inputs) for i in self.layout.features if i.weights is not None}
        vectors = [inputs[f"pretrained.{i.name}"] for i in self.layout.pretrained]
        batch = _Batch(
            small=torch.stack(small, 1) if small else torch.zeros(samples, 0, dtype=torch.int64),
            small_lists=_Lists(lists["small_list"]),
            events=_Lists(lists["event"]),
            managed=_Lists(lists["managed"]),
            list_weights=_Lists({i.key: weights[i.key] for i in self.layout.weighted}),
            dense=self._dense(inputs, samples),
            vectors=torch.cat(vectors, 1) if vectors else torch.zeros(samples, 0),
            firsts=torch.zeros(0, dtype=torch.int64),  # every row has its own ids
        )
        looked_up = {i.key: self._looked_up(i, lists[i.place][i.key]) for i in self.layout.inputs if i.place in LOOKED_UP}
        bags, weighted = (
            {i.key: _of_rows(pooled(looked_up[i.key], i, weights.get(i.key)), i, users) for i in self.layout.at(place)}
            for place in POOLED
        )
        events = {i.key: looked_up[i.key] for place in ONE_BY_ONE for i in self.layout.at(place)}
        collections = _Lists(bags) if bags else None, _Lists(weighted) if weighted else None, events
        v, _ = self.head.features(batch, *collections, users)
        durations = [inputs[f"duration.{column}"] for column in self.layout.durations]
        durations_of_rows = torch.stack(durations, 1) if durations else torch.zeros(samples, 0)
        return self.head.objectives.predicted(self.head.served(self.head.logits(v, batch.dense, None)), durations_of_rows)

    def _samples(self, inputs: Inputs) -> int:
        # Every network has an input with one value per sample: a column, or the lengths of a column of lists.
        name = next(n for n in inputs if not n.startswith(("list.", "weights.")))
        return inputs[name].shape[0]

    def _small(self, item: IdInput, inputs: Inputs) -> torch.Tensor:
        if item.key not in self.layout.statistics:
            return _within(inputs[id_name(item)], item)
        values = inputs[f"number.{item.column}"]
        bucket = torch.bucketize(values, getattr(self, f"boundaries_{item.key}"), right=True) + 1
        return torch.where(values.isnan(), 0, bucket)

    def _ids(self, item: IdInput, inputs: Inputs) -> JaggedTensor:
        if not item.is_list:
            ids = _within(inputs[id_name(item)], item)
            return JaggedTensor(values=ids, lengths=torch.ones_like(ids))
        return JaggedTensor(values=_within(inputs[id_name(item)], item), lengths=self._lengths(item, inputs))

    def _weights(self, item: IdInput, inputs: Inputs) -> JaggedTensor:
        return JaggedTensor(values=inputs[f"weights.{item.weights}"], lengths=self._lengths(item, inputs))

    def _lengths(self, item: IdInput, inputs: Inputs) -> torch.Tensor:
        return inputs[f"lengths.{self.groups[item.key]}"]

    def _looked_up(self, item: IdInput, ids: JaggedTensor) -> JaggedTensor:
        return JaggedTensor(values=self.tables[item.table.name](ids.values()), lengths=ids.lengths())

    def _dense(self, inputs: Inputs, samples: int) -> torch.Tensor:
        parts = []
        for feature in self.layout.dense:
            wide = isinstance(feature, DenseFeature) and feature.width > 1
            values = inputs[f"vector.{feature.column}"] if wide else inputs[f"number.{feature.column}"].unsqueeze(1)
            if isinstance(feature, StatisticFeature):
                values = torch.where(values.isnan(), feature.mean, values)
            mean, std = (
                torch.tensor(x, dtype=values.dtype) for x in (feature.mean, feature.std)
            )  # one for all places, or one per place
            standardised = (values - mean) / std
            if self.layout.clip is not None:
                standardised = standardised.clamp(-self.layout.clip, self.layout.clip)
            parts.append(standardised.float())
        return torch.cat(parts, 1) if parts else torch.zeros(samples, 0)


def _of_rows(vectors: torch.Tensor, item: IdInput, users: UsersOfRows | None) -> torch.Tensor:
    """Pooled vectors (B, dim) of (B, dim), or of those of users (U, dim)."""
    return vectors if users is None else users.spread(vectors, item)


def _within(ids: torch.Tensor, item: IdInput) -> torch.Tensor:
    return torch.where((ids >= 0) & (ids < item.table.rows), ids, 0)
