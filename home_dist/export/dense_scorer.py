"""The scoring model without its tables: whoever runs it looks rows up, and gives them to it.

Its parameters have the names of a published version's dense tensors, so that those of a newer version can take their place in
a compiled program. It is made to be exported: histories see no ids but those that their encoders compare.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import JaggedTensor

from home_dist.embeddings.replicated import ReplicatedTables
from home_dist.embeddings.side_by_side import Rows
from home_dist.export.dense_inputs import dense_inputs_of, rows_name, slots_name
from home_dist.export.numbers import Inputs, picks
from home_dist.export.scoring_head import ScoringHead, Weights
from home_dist.schema import IdInput, InputLayout
from home_dist.sequence.history import Encoder


@dataclass
class GivenRows:
    """Rows of a jagged column, in place of the JaggedTensor of its ids."""

    rows: torch.Tensor
    """(N, dim)"""
    slots: torch.Tensor
    """(N,); zeros where nothing compares them."""
    counts: torch.Tensor
    """(B,)"""

    def values(self) -> torch.Tensor:
        return self.slots

    def lengths(self) -> torch.Tensor:
        return self.counts


@dataclass
class GivenSmall:
    """Rows of replicated tables with one value per sample, in place of their ids (B, S)."""

    rows: dict[int, torch.Tensor]
    """By width, (B, columns of that width, dim)."""
    slots: list[torch.Tensor]
    """By column, (B,); zeros where nothing compares them."""
    samples: torch.Tensor
    """(B,) of any values."""

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: tuple[slice, int]) -> torch.Tensor:
        return self.slots[place[1]]


class GivenTables(nn.Module):
    """The methods of ReplicatedTables, for rows that are given."""

    def __init__(self, tables: ReplicatedTables, small: Sequence[IdInput]):
        super().__init__()
        self.dims = tables.dims
        self.places = [tables.position(n) for n in range(len(small))]

    def single(self, small: GivenSmall) -> dict[int, torch.Tensor]:
        return small.rows

    def position(self, column: int) -> tuple[int, int]:
        return self.places[column]

    def rows(self, ids: GivenRows, item: IdInput) -> Rows:
        return ids.rows, None


class DenseScorer(ScoringHead):
    def __init__(self, source: Weights):
        """Raises ConfigError for tensors that do not fit their configuration."""
        super().__init__(source)
        small = source.layout.at("small")
        given = GivenTables(self.head.features.replicated, small)
        self.head.features.register_module("replicated", given)
        self.widths = sorted({i.table.dim for i in small})
        self.compared = self._compared(source.layout)
        self._reads(dense_inputs_of(source.layout, self.compared))
        for dim in self.widths:
            names = [rows_name(i) for i in small if i.table.dim == dim]
            self.register_buffer(f"of_rows_{dim}", picks(self.inputs[f"rows.{dim}"], names), persistent=False)
        per_sample = (i.name for i in self.inputs.values() if i.group is None)
        self.counted = next(per_sample)
        """An input with one entry per sample; every network has one."""

    def _compared(self, layout: InputLayout) -> set[str]:
        """Names of inputs: columns of events, and of their targets, whose rows of tables an encoder compares."""
        found = set[str]()
        for sequence in layout.sequences:
            encoder = cast(Encoder, self.head.features.encoders[sequence.name])
            for event in sequence.fields:
                compared = encoder.compares is None or event.field.column in encoder.compares
                if compared and event.target is not None and not event.target.is_list:
                    found |= {slots_name(event.field), slots_name(event.target)}
        return found

    def _samples(self, inputs: Inputs) -> int:
        return inputs[self.counted].shape[0]

    def _small(self, inputs: Inputs, samples: int) -> GivenSmall:
        rows = {dim: inputs[f"rows.{dim}"].index_select(1, getattr(self, f"of_rows_{dim}")) for dim in self.widths}
        slots = [self._slots(i, inputs, samples) for i in self.layout.at("small")]
        return GivenSmall(rows, slots, inputs[self.counted])

    def _slots(self, item: IdInput, inputs: Inputs, count: int) -> torch.Tensor:
        name = slots_name(item)
        return inputs[name] if name in self.compared else torch.zeros(count, dtype=torch.int64)

    def _ids(self, item: IdInput, inputs: Inputs) -> GivenRows:
        rows = inputs[rows_name(item)]
        slots = self._slots(item, inputs, len(rows))
        return GivenRows(rows, slots, self._lengths(item, inputs) if item.is_list else torch.ones_like(slots))

    def _looked_up(self, item: IdInput, ids: GivenRows, inputs: Inputs) -> JaggedTensor:
        return JaggedTensor(values=ids.rows, lengths=ids.lengths())
