"""The whole network: embeddings and histories -> feature vector -> multi-task model -> logits and losses."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import nn
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedTensor

from home_dist.config import RunConfig
from home_dist.data.batch import Batch, HostSizes
from home_dist.embeddings.collections import bag_collection, event_collection, managed_tables
from home_dist.embeddings.event_vectors import EventVectors, shared_set
from home_dist.embeddings.pooling import MeansOfSums, in_order, pooled
from home_dist.embeddings.pretrained import Pretrained
from home_dist.embeddings.replicated import ReplicatedTables
from home_dist.embeddings.requests import RequestsOfSamples
from home_dist.embeddings.side_by_side import side_by_side
from home_dist.experts import InputDropout, Towers
from home_dist.experts.share import pools_over
from home_dist.layers.averages import Averages
from home_dist.layers.own_class import check_result
from home_dist.layers.precision import products_in_bf16
from home_dist.layers.recompute import recomputed
from home_dist.layers.step_check import StepCheck
from home_dist.models import FeatureColumns, TaskGroups, build_model
from home_dist.objectives import JointLogits, Objectives, build_weighting
from home_dist.schema import DenseFeature, IdInput, InputLayout, Schema, SequenceInput
from home_dist.schema.layout import ONE_BY_ONE, Place
from home_dist.sequence import Encoded, History, build_encoder, encoded_by
from home_dist.sequence.history import HostLengths

Events = dict[str, JaggedTensor]
Content = Literal["vector", "projection", "history", "value"]


@dataclass
class StepOutput:
    """Results of a step for metrics and records, without gradients."""

    scores: torch.Tensor
    """(B, P): what metrics read, see `Objectives.scores`; of a binary task its logit."""
    labels: torch.Tensor
    """(B, K)"""
    weights: torch.Tensor
    """(B, K), 0 for missing labels and for padding samples."""
    loss_sums: torch.Tensor
    """(K,): per task, the weighted sum of its samples' losses."""
    weight_sums: torch.Tensor
    """(K,): per task, the sum of its samples' weights."""
    samples: torch.Tensor
    """(): number of real samples."""
    epoch: int
    step: int
    """The reader's position once this step is done."""
    auxiliary: dict[str, torch.Tensor] = field(default_factory=dict)
    """Losses () that belong to no task, by name, as added to the loss; `loss_sums` does not contain them."""


class FeatureVector(nn.Module):
    """Looked-up embeddings and dense values -> v (B, F)."""

    def __init__(self, layout: InputLayout, config: RunConfig, outputs: int):
        """outputs: O, of all towers."""
        super().__init__()
        self.layout = layout
        replicated = [i for i in layout.inputs if i.table.replicated]
        self.replicated = ReplicatedTables(replicated, config.embedding.init_std)
        self._small_column = {i.key: n for n, i in enumerate(layout.at("small"))}
        self.dropout = InputDropout(config.embedding.dropout)
        self.bf16 = False
        self.grouped = False
        """Whether the batch's groups tell users apart."""
        self.set_names: tuple[str, ...] = ("",)
        """Tasks that the vectors of a table's row belong to; "" for the one that all share."""
        self.encoders = nn.ModuleDict()
        self.pretrained = Pretrained(layout.pretrained)
        self.settings = {s.name: s for s in config.sequence}
        self._encoded: list[tuple[str, int]] = []
        for sequence in layout.sequences:
            encoder = build_encoder(self.settings[sequence.name], sequence.fields, outputs)
            self.encoders[sequence.name] = encoder
            self._encoded.append((sequence.name, encoder.out_dim))
        self.width = sum(width for _, _, width in self.sections())

    def sections(self) -> list[tuple[Content, str, int]]:
        """The sections of v in order: (content, name of the feature or history, width)."""
        small = [i for dim in self.replicated.dims for i in self.layout.at("small") if i.table.dim == dim]
        places: tuple[Place, ...] = ("small_list", "bag", "weighted_bag", *ONE_BY_ONE)
        later = [i for place in places for i in self.layout.features if i.place == place]
        parts: list[tuple[Content, str, int]] = [("vector", i.key, i.table.dim) for i in [*small, *later]]
        parts += [("projection", name, width) for name, width in self.pretrained.widths]
        parts += [("history", name, width) for name, width in self._encoded]
        return parts + [("value", f.name, f.width if isinstance(f, DenseFeature) else 1) for f in self.layout.dense]

    def columns(self) -> dict[str, list[int]]:
        """By feature, its columns in v. A statistic has two sections: its bucket's vector and its value."""
        columns: dict[str, list[int]] = {}
        first = 0
        for content, name, width in self.sections():
            if content != "history":
                columns.setdefault(name, []).extend(range(first, first + width))
            first += width
        return columns

    def sets(self) -> list[list[int]]:
        """Where tables' rows hold several vectors: of each set its columns in v, the shared set first. Else empty."""
        sets = len(self.set_names)
        columns: list[list[int]] = [[] for _ in range(sets)]
        first = 0
        for content, _, width in self.sections():
            if content == "vector":
                for n, columns_of_set in enumerate(columns):
                    columns_of_set += range(first + width * n // sets, first + width * (n + 1) // sets)
            first += width
        return columns if sets > 1 else []

    def forward(
        self,
        batch: Batch,
        bags: KeyedTensor | None,
        weighted: KeyedTensor | None,
        events: Events | None,
        requests: RequestsOfSamples | None = None,
    ) -> tuple[torch.Tensor, dict[str, Encoded]]:
        """bags, weighted, events: outputs of the sharded collections. requests: by default those of the batch's `firsts`.
        Returns v (B, F) and the encoders' outputs by history."""
        requests = requests or RequestsOfSamples(batch.firsts, len(batch.small))
        single = self.replicated.single(batch.small)
        lists = batch.small_lists.to_dict() if batch.small_lists.keys() else {}
        weights = batch.list_weights.to_dict() if self.layout.weighted else {}
        ids = batch.events.to_dict() if batch.events.keys() else {}
        vectors = EventVectors(events or {}, ids, batch.places)
        parts = [x.flatten(1) for x in single.values()]
        later = {place: [i for i in self.layout.features if i.place == place] for place in ("small_list", *ONE_BY_ONE)}
        parts += [requests.spread(self._listed(lists, i, weights), i) for i in later["small_list"]]
        for inputs, found in ((self.layout.at("bag"), bags), (self.layout.at("weighted_bag"), weighted)):
            if found is not None:
                parts.append(requests.spread_bags(in_order(found, [i.key for i in inputs]), inputs))
        for place in ONE_BY_ONE:
            parts += [requests.spread(vectors.pooled(i, weights.get(i.key)), i) for i in later[place]]
        parts += self.pretrained(batch.vectors) if self.layout.pretrained else []
        if self.layout.at("managed"):
            ids |= batch.managed.to_dict()
        encoded = {}
        for s in self.layout.sequences:
            history = self._history(s, requests, single, lists, weights, vectors, ids, batch.small)
            if batch.on_host is not None:
                history.lengths_on_host = _lengths_on_host(s, requests, batch.on_host)
            newest = self.settings[s.name].newest
            if newest is not None:
                history = history.newest(newest)
            if self.grouped and self.training:
                history.users = batch.groups if history.of_target is None else batch.groups.index_select(0, batch.firsts)
            with products_in_bf16(self.bf16, batch.dense.device):
                encoded[s.name] = encoded_by(self.encoders[s.name], history)
        parts += [e.vector.float() for e in encoded.values()]
        if parts:  # a network may have dense values only
            parts = [self.dropout(_joined(parts))]
        return _joined([*parts, batch.dense] if self.layout.dense_width else parts), encoded

    def _listed(self, lists: Events, item: IdInput, weights: Events) -> torch.Tensor:
        """Pooled vectors (B, dim) of a multi-valued feature in a replicated table."""
        ids = lists[item.key]
        vectors = JaggedTensor(values=side_by_side([self.replicated.rows(ids, item)]), lengths=ids.lengths())
        return pooled(vectors, item, weights.get(item.key))

    def _history(
        self,
        sequence: SequenceInput,
        requests: RequestsOfSamples,
        single: dict[int, torch.Tensor],
        lists: Events,
        weights: Events,
        vectors: EventVectors,
        ids: Events,
        small: torch.Tensor,
    ) -> History:
        """weights: of weighted lists; ids: table rows of what is looked up one by one; small: Batch.small."""
        shared, targets, contexts = [], [], []
        event_ids, target_ids = {}, {}
        for event in sequence.fields:
            field = event.field
            one_by_one = field.place in ONE_BY_ONE
            rows = (ids if one_by_one else lists)[field.key]
            table, of_events = vectors.rows(field.key) if one_by_one else self.replicated.rows(rows, field)
            part = shared_set(table, field.table), of_events
            if event.target is None:
                contexts.append(part)
                continue
            shared.append(part)
            target = self._target(event.target, single, lists, weights, vectors)
            targets.append(shared_set(target, event.target.table))
            target_rows = self._target_rows(event.target, ids, small)
            if target_rows is not None:
                event_ids[field.column], target_ids[field.column] = rows.values(), target_rows
        lengths, of_target = rows.lengths(), None
        if requests.share(sequence.fields[0].field):
            lengths, of_target = lengths.index_select(0, requests.firsts), requests.of_sample
        events, q = side_by_side(shared), torch.cat(targets, 1)
        c = side_by_side(contexts) if contexts else events.new_zeros(len(events), 0)
        return History(events, c, q, lengths, event_ids, target_ids, of_target=of_target)

    def _target_rows(self, item: IdInput, ids: Events, small: torch.Tensor) -> torch.Tensor | None:
        """A target's table rows (B,), 0 for padding samples without an id; None for a multi-valued target."""
        if item.is_list:
            return None
        if item.place in ONE_BY_ONE:
            rows = ids[item.key]
            values, lengths = rows.values(), rows.lengths().long()
            last = torch.cat([values, values.new_zeros(1)])
            return last[torch.where(lengths > 0, lengths.cumsum(0) - lengths, len(values))]
        return small[:, self._small_column[item.key]]

    def _target(
        self, item: IdInput, single: dict[int, torch.Tensor], lists: Events, weights: Events, vectors: EventVectors
    ) -> torch.Tensor:
        """The target's vectors (B, dim)."""
        if item.place in ONE_BY_ONE:
            return vectors.pooled(item, weights.get(item.key))
        if item.place == "small_list":
            return self._listed(lists, item, weights)
        dim, index = self.replicated.position(self._small_column[item.key])
        return single[dim][:, index]


def _lengths_on_host(sequence: SequenceInput, requests: RequestsOfSamples, known: HostSizes) -> HostLengths:
    field = sequence.fields[0].field
    lengths = known.lengths[field.key]
    if not requests.share(field):
        return HostLengths(lengths, lengths)
    histories = lengths[known.firsts]
    return HostLengths(histories, histories.repeat(np.diff(known.firsts, append=requests.samples)))


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    """Parts side by side, (B, sum of widths); a single part is not copied."""
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


class Head(nn.Module):
    """The replicated part, whose ranks exchange sums only: feature vector, model, towers, losses."""

    correction: torch.Tensor | None

    def __init__(self, schema: Schema, layout: InputLayout, config: RunConfig):
        super().__init__()
        tasks = schema.task
        means = frozenset(i.key for i in layout.at("bag") if i.pooling == "mean")
        self.means = MeansOfSums(means) if means else None
        self.objectives = Objectives(tasks, config)
        self.features = FeatureVector(layout, config, sum(self.objectives.outputs))
        self.features.grouped = schema.group_column is not None
        if config.model.table_sets(len(tasks)) > 1:
            self.features.set_names = ("", *(t.name for t in tasks))
        columns = FeatureColumns(self.features.columns(), self.features.sets())
        model = build_model(config.model, self.features.width, TaskGroups.of(tasks), columns)
        self.model, self.recompute_experts = model, config.train.recompute_experts
        rates = torch.tensor([t.base_rate or 0.5 for t in tasks])
        apart = {k: config.model.towers[t.name] for k, t in enumerate(tasks) if t.name in config.model.towers}
        self.register_buffer("correction", self._correction(config, [t.name for t in tasks]), persistent=False)
        starts = self.objectives.start(model.tower_rates(rates))
        if self.correction is not None:  # among the rows of training the rates are higher
            corrections = self.correction.split(self.objectives.outputs)
            starts = [start - correction for start, correction in zip(starts, corrections, strict=True)]
        self.towers = Towers(model.out_dim, config.model.tower_hidden, starts, apart)
        self.joint = JointLogits(model, config.model, [t.name for t in tasks], self.objectives)
        self.linear = None
        if config.train.linear_path and layout.dense_width:
            self.linear = nn.Linear(layout.dense_width, sum(self.objectives.outputs), bias=False)
            nn.init.zeros_(self.linear.weight)
        self.weighting = build_weighting(config.train.weighting, [t.name for t in tasks], config.train.task_weights)
        self.averages: Averages | None = None
        """Of parameters and running statistics (`train.ema`), but not of tables."""
        if config.train.ema is not None:
            self.averages = Averages(self, config.train.ema.decay, without=("weighting.", "features.replicated."))
        self.check: StepCheck | None = None
        """If set, refuses training steps that are not finite."""
        self.program: Callable[..., torch.Tensor] | None = None
        """If set, training steps compute `logits` by it; evaluations do not."""

    def forward(
        self,
        batch: Batch,
        bags: KeyedTensor | None,
        weighted: KeyedTensor | None,
        events: Events | None,
        managed: Events | None = None,
    ) -> tuple[torch.Tensor, StepOutput]:
        if managed is not None:
            events = {**(events or {}), **managed}
        training = self.training and torch.is_grad_enabled()
        check = self.check if training else None
        if check is not None:
            check.begin()
            bags, weighted, events = check.through(bags, weighted, events)
        if bags is not None and self.means is not None:
            bags = self.means(bags, batch.bags)
        v, encoded = self.features(batch, bags, weighted, events)
        if self.weighting.looks and self.training and not v.requires_grad:
            v = v.requires_grad_()  # of dense values alone
        logits = (self.program if training and self.program else self.logits)(v, batch.dense, batch.mask)
        weights = batch.weights * batch.mask.unsqueeze(1)
        requests = batch.requests if self.training and self.objectives.within else None
        on_host = None if batch.on_host is None else batch.on_host.requests
        taught = self.objectives.taught(batch.labels, batch.teachers) if training else None
        losses = self.objectives.losses(logits, batch.labels, weights, batch.durations, requests, on_host, taught)
        sums = (losses * weights).sum(0)
        weight_sums = weights.sum(0)
        if training:
            self.weighting.look(v, sums, batch.size)
        loss = self.weighting.total(sums, weight_sums, batch.size)
        auxiliary = self.model.auxiliary() | self._of_encoders(encoded, batch, weights)
        for extra in auxiliary.values():
            loss = loss + extra
        if check is not None:
            check.heard(loss, sums.detach(), batch)
        output = StepOutput(
            self.objectives.scores(logits.detach() if self.training else self.served(logits.detach()), batch.durations),
            batch.labels,
            weights,
            sums.detach(),
            weight_sums,
            batch.mask.sum(),
            epoch=batch.epoch,
            step=batch.step,
            auxiliary={name: extra.detach() for name, extra in auxiliary.items()},
        )
        return loss, output

    def _correction(self, config: RunConfig, tasks: list[str]) -> torch.Tensor | None:
        """(O,) what served logits are raised by: log r of a task of whose negatives training sees a share r."""
        negatives, outputs = config.data.negatives, self.objectives.outputs
        if negatives is None or negatives.correct != "logit" or negatives.keep == 1:
            return None
        correction, task = torch.zeros(sum(outputs)), tasks.index(negatives.tasks[0])
        correction[sum(outputs[: task + 1]) - 1] = math.log(negatives.keep)  # of jrc's two logits that of "yes"
        return correction

    def served(self, logits: torch.Tensor) -> torch.Tensor:
        """(B, O) logits as evaluations and exports read them."""
        return logits if self.correction is None else logits + self.correction

    def task_weight(self) -> torch.Tensor:
        """(K,) what each task's loss is multiplied by, without gradient."""
        return self.weighting.fixed * self.weighting.factors()

    def _of_encoders(self, encoded: dict[str, Encoded], batch: Batch, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        """Auxiliary losses () of the encoders, by "SEQUENCE_NAME"; weights: (B, K)."""
        auxiliary: dict[str, torch.Tensor] = {}
        for sequence, encoder in encoded.items():
            auxiliary |= {f"{sequence}_{name}": loss for name, loss in encoder.auxiliary.items()}
            for name, (logits, factor) in encoder.predictions.items():
                losses = self.objectives.losses(logits.float(), batch.labels, weights, batch.durations) * weights
                auxiliary[f"{sequence}_{name}"] = factor * (losses.sum(0) * self.task_weight()).sum() / batch.size
        return auxiliary

    def logits(self, v: torch.Tensor, dense: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """v: (B, F); dense: (B, dense values); mask: (B,). Returns the outputs (B, O) of all towers."""
        state = recomputed(self.model, v, mask) if self.recompute_experts and self.training else self.model(v, mask)
        check_result(self.model, "forward", state, {"K": len(self.objectives.kinds), "B": len(v), "D": self.model.out_dim})
        with products_in_bf16(self.features.bf16, v.device):
            logits = self.towers(state).float()
        if self.linear is not None:
            logits = logits + self.linear(dense)
        return self.joint(self.model, logits)


class Network(nn.Module):
    """Batch -> (loss, StepOutput). TorchRec shards `bags`, `weighted_bags`, `events` and `managed`; `head` is replicated."""

    def __init__(self, schema: Schema, layout: InputLayout, config: RunConfig, device: torch.device, ranks: int = 1):
        """device: where the collections lie before sharding; "meta" allocates nothing. ranks: over which managed tables and
        pools of experts will be sharded. Collective if a pool is."""
        super().__init__()
        self.bags = bag_collection(layout, device)
        self.weighted_bags = bag_collection(layout, device, weighted=True)
        self.events = event_collection(layout, device)
        self.managed = managed_tables(layout, device, ranks)
        with pools_over(ranks, config.distributed.expert_parallel, config.distributed.timeout):
            self.head = Head(schema, layout, config)

    def table_parameters(self) -> list[nn.Parameter]:
        """Of the tables to be sharded."""
        collections = (self.bags, self.weighted_bags, self.events, self.managed)
        return [p for c in collections if c is not None for p in c.parameters()]

    def forward(self, batch: Batch) -> tuple[torch.Tensor, StepOutput]:
        # TorchRec's pipeline traces this method: keep it to look-ups and one call.
        bags = self.bags(batch.bags) if self.bags is not None else None
        weighted = self.weighted_bags(batch.weighted_bags) if self.weighted_bags is not None else None
        events = self.events(batch.looked_up) if self.events is not None else None
        managed = self.managed(batch.managed)[0] if self.managed is not None else None
        return self.head(batch, bags, weighted, events, managed)
