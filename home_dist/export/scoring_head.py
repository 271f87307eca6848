"""What scoring models share: the network's head, fed from inputs by name, once keys are rows of tables."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import JaggedTensor

from home_dist.config import RunConfig
from home_dist.embeddings.pooling import pooled
from home_dist.errors import ConfigError
from home_dist.export.numbers import Inputs, Standardised
from home_dist.export.program_inputs import Input, list_groups
from home_dist.export.users import UsersOfRows
from home_dist.network import Head
from home_dist.schema import IdInput, InputLayout, Schema
from home_dist.schema.layout import ONE_BY_ONE, Place

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
    places: None = None
    on_host: None = None


class ScoringHead(nn.Module, ABC):
    def __init__(self, source: Weights):
        """Raises ConfigError for tensors that do not fit their configuration."""
        super().__init__()
        self.layout: InputLayout = source.layout
        self.tasks = [t.name for t in source.schema.task]
        self.head = Head(source.schema, source.layout, source.config)
        self.names = list(self.head.objectives.names)
        """(P,) names of the predictions: of a task, or of a task and its class."""
        self._fill(source)
        self.groups = list_groups(source.layout)

    def _reads(self, inputs: dict[str, Input]) -> None:
        """Call it in the constructor. inputs: that `forward` takes, by name."""
        self.inputs = inputs
        self.dense = Standardised(self.layout, inputs)
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
        samples = self._samples(inputs) if users is None else users.samples
        lists = {place: {i.key: self._ids(i, inputs) for i in self.layout.at(place)} for place in PLACES}
        weights = {i.key: self._weights(i, inputs) for i in self.layout.features if i.weights is not None}
        vectors = [inputs[f"pretrained.{i.name}"] for i in self.layout.pretrained]
        batch = _Batch(
            small=self._small(inputs, samples),
            small_lists=_Lists(lists["small_list"]),
            events=_Lists(lists["event"]),
            managed=_Lists(lists["managed"]),
            list_weights=_Lists({i.key: weights[i.key] for i in self.layout.weighted}),
            dense=self.dense(inputs, samples),
            vectors=torch.cat(vectors, 1) if vectors else torch.zeros(samples, 0),
            firsts=torch.zeros(0, dtype=torch.int64),  # every row has its own ids
        )
        looked_up = {
            i.key: self._looked_up(i, lists[i.place][i.key], inputs) for i in self.layout.inputs if i.place in LOOKED_UP
        }
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

    def _weights(self, item: IdInput, inputs: Inputs) -> JaggedTensor:
        return JaggedTensor(values=inputs[f"weights.{item.weights}"], lengths=self._lengths(item, inputs))

    def _lengths(self, item: IdInput, inputs: Inputs) -> torch.Tensor:
        return inputs[f"lengths.{self.groups[item.key]}"]

    @abstractmethod
    def _samples(self, inputs: Inputs) -> int:
        """B"""

    @abstractmethod
    def _small(self, inputs: Inputs, samples: int) -> Any:
        """What stands for Batch.small."""

    @abstractmethod
    def _ids(self, item: IdInput, inputs: Inputs) -> Any:
        """Rows of its table (n,), as a JaggedTensor or with its methods, for columns that are not small."""

    @abstractmethod
    def _looked_up(self, item: IdInput, ids: Any, inputs: Inputs) -> JaggedTensor:
        """Vectors (n, dim) of the table's rows `ids`."""


def _of_rows(vectors: torch.Tensor, item: IdInput, users: UsersOfRows | None) -> torch.Tensor:
    """Pooled vectors (B, dim) of (B, dim), or of those of users (U, dim)."""
    return vectors if users is None else users.spread(vectors, item)
