"""The whole: embeddings and histories -> feature vector -> multi-task model -> logits and losses."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor, KeyedTensor

from home_dist.config import RunConfig
from home_dist.data.batch import Batch
from home_dist.embeddings.collections import bag_collection, event_collection, managed_tables
from home_dist.embeddings.pretrained import Pretrained
from home_dist.embeddings.replicated import ReplicatedTables
from home_dist.experts import InputDropout, Towers
from home_dist.layers.recompute import recomputed
from home_dist.layers.step_check import StepCheck
from home_dist.models import TaskGroups, build_model
from home_dist.schema import DenseFeature, IdInput, InputLayout, Schema, SequenceInput
from home_dist.schema.layout import ONE_BY_ONE, Place
from home_dist.sequence import Encoded, History, build_encoder
from home_dist.sequence.jagged import newest_within

Events = dict[str, JaggedTensor]
Content = Literal["vector", "projection", "history", "value"]


@dataclass
class StepOutput:
    """What a step leaves for metrics and for the record. No gradients."""

    logits: torch.Tensor
    """(B, K)"""
    labels: torch.Tensor
    """(B, K)"""
    weights: torch.Tensor
    """(B, K), 0 where there is no label, or no sample."""
    loss_sums: torch.Tensor
    """(K,): per task, the weighted sum of its samples' losses."""
    weight_sums: torch.Tensor
    """(K,): per task, the sum of its samples' weights."""
    samples: torch.Tensor
    """(): real samples."""
    epoch: int
    step: int
    """The reader's position once this step is done."""
    auxiliary: dict[str, torch.Tensor] = field(default_factory=dict)
    """Losses that are no task's, (), by name, as they were added to the loss; `loss_sums` are without them."""


class FeatureVector(nn.Module):
    """Everything that was looked up, and the dense values -> v (B, F)."""

    def __init__(self, layout: InputLayout, config: RunConfig, tasks: int):
        """tasks: K."""
        super().__init__()
        self.layout = layout
        replicated = [i for i in layout.inputs if i.table.replicated]
        self.replicated = ReplicatedTables(replicated, config.embedding.init_std)
        self._small_column = {i.key: n for n, i in enumerate(layout.at("small"))}
        self.dropout = InputDropout(config.embedding.dropout)
        self.bf16 = False
        self.grouped = False
        """Whether the batch's groups tell users apart."""
        self.encoders = nn.ModuleDict()
        self.pretrained = Pretrained(layout.pretrained)
        self.settings = {s.name: s for s in config.sequence}
        self._encoded: list[tuple[str, int]] = []
        for sequence in layout.sequences:
            encoder = build_encoder(self.settings[sequence.name], sequence.fields, tasks)
            self.encoders[sequence.name] = encoder
            self._encoded.append((sequence.name, encoder.out_dim))
        self.width = sum(width for _, _, width in self.sections())

    def sections(self) -> list[tuple[Content, str, int]]:
        """What stands in v, in its order: what it is, of which feature or history, and how wide."""
        of_dim = [i for dim in self.replicated.dims for i in self.layout.at("small") if i.table.dim == dim]
        places: tuple[Place, ...] = ("small_list", "bag", "weighted_bag", *ONE_BY_ONE)
        later = [i for place in places for i in self.layout.features if i.place == place]
        parts: list[tuple[Content, str, int]] = [("vector", i.key, i.table.dim) for i in [*of_dim, *later]]
        parts += [("projection", name, width) for name, width in self.pretrained.widths]
        parts += [("history", name, width) for name, width in self._encoded]
        return parts + [("value", f.name, f.width if isinstance(f, DenseFeature) else 1) for f in self.layout.dense]

    def columns(self) -> dict[str, list[int]]:
        """By feature, where it stands in v; a statistic stands there by its bucket's vector and by its value."""
        columns: dict[str, list[int]] = {}
        at = 0
        for content, name, width in self.sections():
            if content != "history":
                columns.setdefault(name, []).extend(range(at, at + width))
            at += width
        return columns

    def forward(
        self, batch: Batch, bags: KeyedTensor | None, weighted: KeyedTensor | None, events: Events | None
    ) -> tuple[torch.Tensor, dict[str, Encoded]]:
        """bags, weighted, events: what the sharded collections found. Returns v (B, F), and what each encoder found."""
        events = events or {}
        single = self.replicated.single(batch.small)
        lists = batch.small_lists.to_dict() if batch.small_lists.keys() else {}
        weights = batch.list_weights.to_dict() if self.layout.weighted else {}
        parts = [x.flatten(1) for x in single.values()]
        parts += [self._listed(lists, i, weights) for i in self.layout.features if i.place == "small_list"]
        if bags is not None:
            parts.append(_in_order(bags, [i.key for i in self.layout.at("bag")]))
        if weighted is not None:
            parts.append(_in_order(weighted, [i.key for i in self.layout.at("weighted_bag")]))
        for place in ONE_BY_ONE:
            parts += [pooled(events[i.key], i, weights.get(i.key)) for i in self.layout.features if i.place == place]
        if self.layout.pretrained:
            parts += self.pretrained(batch.vectors)
        ids = batch.events.to_dict() if batch.events.keys() else {}
        if self.layout.at("managed"):
            ids |= batch.managed.to_dict()
        encoded = {}
        for s in self.layout.sequences:
            history = self._history(s, single, lists, weights, events, ids, batch.small)
            if self.grouped and self.training:
                history.users = batch.groups
            with products_in_bf16(self.bf16, batch.dense.device):
                encoded[s.name] = self.encoders[s.name](history)
        parts += [e.vector.float() for e in encoded.values()]
        if parts:  # dense values alone make a network too
            parts = [self.dropout(_joined(parts))]
        return _joined([*parts, batch.dense] if self.layout.dense_width else parts), encoded

    def _listed(self, lists: Events, item: IdInput, weights: Events) -> torch.Tensor:
        """A multi-valued feature of a replicated table, (B, dim)."""
        ids = lists[item.key]
        found = JaggedTensor(values=self.replicated.listed(ids, item), lengths=ids.lengths())
        return pooled(found, item, weights.get(item.key))

    def _history(
        self,
        sequence: SequenceInput,
        single: dict[int, torch.Tensor],
        lists: Events,
        weights: Events,
        found: Events,
        ids: Events,
        small: torch.Tensor,
    ) -> History:
        """weights: of weighted lists; found, ids: embeddings and rows of the EmbeddingCollection; small: Batch.small."""
        shared, targets, contexts = [], [], []
        event_ids, target_ids = {}, {}
        for event in sequence.fields:
            field = event.field
            rows = (ids if field.place in ONE_BY_ONE else lists)[field.key]
            values = found[field.key].values() if field.place in ONE_BY_ONE else self.replicated.listed(rows, field)
            if event.target is None:
                contexts.append(values)
                continue
            shared.append(values)
            targets.append(self._target(event.target, single, lists, weights, found))
            of_target = self._target_rows(event.target, ids, small)
            if of_target is not None:
                event_ids[field.column], target_ids[field.column] = rows.values(), of_target
        lengths = rows.lengths()
        events, q = torch.cat(shared, 1), torch.cat(targets, 1)
        c = torch.cat(contexts, 1) if contexts else events.new_zeros(len(events), 0)
        history = History(events, c, q, lengths, event_ids, target_ids)
        newest = self.settings[sequence.name].newest
        return history if newest is None else history.take(*newest_within(lengths, history.owners, newest))

    def _target_rows(self, item: IdInput, ids: Events, small: torch.Tensor) -> torch.Tensor | None:
        """(B,): a target's table rows, 0 where a filled sample has none; None for a target of several ids."""
        if item.is_list:
            return None
        if item.place in ONE_BY_ONE:
            rows = ids[item.key]
            values, lengths = rows.values(), rows.lengths().long()
            last = torch.cat([values, values.new_zeros(1)])
            return last[torch.where(lengths > 0, lengths.cumsum(0) - lengths, len(values))]
        return small[:, self._small_column[item.key]]

    def _target(
        self, item: IdInput, single: dict[int, torch.Tensor], lists: Events, weights: Events, found: Events
    ) -> torch.Tensor:
        """(B, dim)"""
        if item.place in ONE_BY_ONE:
            return pooled(found[item.key], item, weights.get(item.key))
        if item.place == "small_list":
            return self._listed(lists, item, weights)
        dim, index = self.replicated.position(self._small_column[item.key])
        return single[dim][:, index]


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    """(B, widths): one part is not copied."""
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


def _in_order(bags: KeyedTensor, keys: list[str]) -> torch.Tensor:
    """(B, width): in the layout's order. TorchRec's follows the sharding plan, which another number of ranks may change."""
    if bags.keys() == keys:
        return bags.values()
    found = bags.to_dict()
    return torch.cat([found[key] for key in keys], 1)


def means_of_sums(bags: KeyedTensor, ids: KeyedJaggedTensor, means: frozenset[str]) -> KeyedTensor:
    """bags: (B, width) sums over each sample's ids; those of the keys `means` become means, zero for samples without any."""
    keys, row = bags.keys(), {key: n for n, key in enumerate(ids.keys())}
    order = torch.tensor([row[key] for key in keys], device=ids.lengths().device)
    counts = ids.lengths().view(len(row), -1).index_select(0, order)
    divided = torch.tensor([key in means for key in keys], device=counts.device).unsqueeze(1)
    scale = torch.where(divided, 1 / counts.clamp(min=1), 1.0)
    widths = torch.tensor(bags.length_per_key(), device=counts.device)
    values = bags.values() * scale.t().repeat_interleave(widths, 1, output_size=bags.values().shape[1])
    return KeyedTensor(keys, bags.length_per_key(), values)


def pooled(ids: JaggedTensor, item: IdInput, weights: JaggedTensor | None = None) -> torch.Tensor:
    """(n, dim) values of jagged samples -> (B, dim): their sum or mean; zero for samples without any. weights: (n,)."""
    values, lengths = ids.values(), ids.lengths()
    if weights is not None:
        values = values * weights.values().unsqueeze(1)
    sample = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths, output_size=len(values))
    total = values.new_zeros(len(lengths), values.shape[1]).index_add_(0, sample, values)
    return total / lengths.clamp(min=1).unsqueeze(1) if item.pooling == "mean" else total


def products_in_bf16(on: bool, device: torch.device) -> torch.autocast:
    """Matrix products of encoders and towers; experts have a precision of their own (`kernels`). Sums, statistics and losses
    are fp32 in any case."""
    return torch.autocast(device.type, torch.bfloat16, enabled=on)


class Head(nn.Module):
    """All that needs no exchange between ranks but sums: feature vector, model, towers, losses."""

    task_weight: torch.Tensor

    def __init__(self, schema: Schema, layout: InputLayout, config: RunConfig):
        super().__init__()
        tasks = schema.task
        self.means = frozenset(i.key for i in layout.at("bag") if i.pooling == "mean")
        self.features = FeatureVector(layout, config, len(tasks))
        self.features.grouped = schema.group_column is not None
        model = build_model(config.model, self.features.width, TaskGroups.of(tasks), self.features.columns())
        self.model, self.recompute_experts = model, config.train.recompute_experts
        rates = torch.tensor([t.base_rate or 0.5 for t in tasks])
        self.towers = Towers(len(tasks), model.out_dim, config.model.tower_hidden, torch.logit(model.tower_rates(rates)))
        self.linear = None
        if config.train.linear_path and layout.dense_width:
            self.linear = nn.Linear(layout.dense_width, len(tasks), bias=False)
            nn.init.zeros_(self.linear.weight)
        weights = torch.tensor([config.train.task_weights.get(t.name, 1.0) for t in tasks])
        self.register_buffer("task_weight", weights, persistent=False)
        self.check: StepCheck | None = None
        """Refuses steps of training that are not finite, where there is one."""

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
        check = self.check if self.training and torch.is_grad_enabled() else None
        if check is not None:
            check.begin()
            bags, weighted, events = check.through(bags, weighted, events)
        if bags is not None and self.means:
            bags = means_of_sums(bags, batch.bags, self.means)
        v, encoded = self.features(batch, bags, weighted, events)
        logits = self.logits(v, batch.dense, batch.mask)
        weights = batch.weights * batch.mask.unsqueeze(1)
        losses = nn.functional.binary_cross_entropy_with_logits(logits, batch.labels, weight=weights, reduction="none")
        sums = losses.sum(0)
        # Over the nominal batch size, not the weights that happen to be there: a sample then counts the same in a full and in
        # a filled-up batch, on any number of ranks, and no sum has to be exchanged first.
        loss = (sums * self.task_weight).sum() / batch.size
        auxiliary = self.model.auxiliary() | self._of_encoders(encoded, batch.labels, weights)
        for extra in auxiliary.values():
            loss = loss + extra
        if check is not None:
            check.heard(loss, sums.detach(), batch)
        output = StepOutput(
            logits.detach(),
            batch.labels,
            weights,
            sums.detach(),
            weights.sum(0),
            batch.mask.sum(),
            epoch=batch.epoch,
            step=batch.step,
            auxiliary={name: extra.detach() for name, extra in auxiliary.items()},
        )
        return loss, output

    def _of_encoders(self, encoded: dict[str, Encoded], labels: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        """Losses () of the encoders' own, by sequence and name; labels, weights: (B, K)."""
        found: dict[str, torch.Tensor] = {}
        for sequence, encoder in encoded.items():
            found |= {f"{sequence}_{name}": loss for name, loss in encoder.auxiliary.items()}
            for name, (logits, factor) in encoder.predictions.items():
                losses = nn.functional.binary_cross_entropy_with_logits(
                    logits.float(), labels, weight=weights, reduction="none"
                )
                found[f"{sequence}_{name}"] = factor * (losses.sum(0) * self.task_weight).sum() / len(labels)
        return found

    def logits(self, v: torch.Tensor, dense: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """v: (B, F); dense: (B, P); mask: (B,). Returns (B, K)."""
        state = recomputed(self.model, v, mask) if self.recompute_experts and self.training else self.model(v, mask)
        with products_in_bf16(self.features.bf16, v.device):
            logits = self.towers(state).float()
        if self.linear is not None:
            logits = logits + self.linear(dense)
        return self.model.joint(logits)


class Network(nn.Module):
    """Batch -> (loss, StepOutput). TorchRec shards `bags`, `weighted_bags`, `events` and `managed`; `head` is replicated."""

    def __init__(self, schema: Schema, layout: InputLayout, config: RunConfig, device: torch.device):
        """device: of the sharded collections before sharding; "meta" allocates nothing."""
        super().__init__()
        self.bags = bag_collection(layout, device)
        self.weighted_bags = bag_collection(layout, device, weighted=True)
        self.events = event_collection(layout, device)
        self.managed = managed_tables(layout, device)
        self.head = Head(schema, layout, config)

    def forward(self, batch: Batch) -> tuple[torch.Tensor, StepOutput]:
        # TorchRec's pipeline traces this method: keep it to look-ups and one call.
        bags = self.bags(batch.bags) if self.bags is not None else None
        weighted = self.weighted_bags(batch.weighted_bags) if self.weighted_bags is not None else None
        events = self.events(batch.events) if self.events is not None else None
        managed = self.managed(batch.managed)[0] if self.managed is not None else None
        return self.head(batch, bags, weighted, events, managed)
