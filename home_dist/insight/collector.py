"""Inspects a model in sampled steps of training, without changing it.

In a sampled step two hooks catch the feature vector and the labels. After the forward pass, before parameters change, a few of
the step's samples pass through the model once more, watched (watch.py). All ranks sample the same steps and add up their sums
in one exchange; the first rank stores the figures.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from home_dist.config.insight import InsightSection
from home_dist.data.batch import Batch
from home_dist.insight.clock import StepClock
from home_dist.insight.figures import figures
from home_dist.insight.store import Figures, Names, PartNames
from home_dist.insight.sums import Sums, gradients, over_ranks, statistics
from home_dist.models import TaskGroups
from home_dist.models.anatomy import Anatomy
from home_dist.network import Network
from home_dist.schema import Schema


class Collector:
    def __init__(self, model: nn.Module, optimizer: Optimizer, schema: Schema, config: InsightSection, every: int):
        """every: steps between two that are sampled."""
        [network] = [m for m in model.modules() if isinstance(m, Network)]
        self.head = network.head
        self.clock = StepClock(network, self.head, optimizer)
        self.config, self.every, self.tasks = config, every, TaskGroups.of(schema.task)
        self.anatomy = self.head.model.anatomy(self.tasks)
        self.columns = self.head.features.columns()
        self.seconds = 0.0
        """Spent on insight so far, the exchange included."""

    def due(self, step: int) -> bool:
        """Whether to sample this step, counted from 1."""
        return bool(self.every) and step % self.every == 0

    @contextmanager
    def step(self, step: int, keep: Callable[[int, Figures], None]) -> Iterator[None]:
        """Wraps a step of training. If the step is sampled, `keep` gets its figures, on all ranks."""
        if not self.due(step):
            yield
            return
        passed: dict[str, Any] = {}
        before = self.seconds
        hooks = [
            self.head.features.register_forward_hook(lambda _, __, found: passed.update(v=found[0].detach())),
            self.head.register_forward_hook(lambda _, given, __: passed.update(sums=self._look(passed["v"], given[0]))),
        ]
        try:
            with self.clock.step():
                yield
        finally:
            for hook in hooks:
                hook.remove()
        sums = passed["sums"] | {"seconds": self.clock.seconds(self.seconds - before), "clocks": torch.ones(())}
        began = time.perf_counter()
        keep(step, figures(over_ranks(sums), self.anatomy, self.columns))
        self.seconds += time.perf_counter() - began

    def _look(self, v: torch.Tensor, batch: Batch) -> Sums:
        began = time.perf_counter()
        real = int(batch.mask.sum())  # real samples come first in a batch
        # A rank without real samples passes one padding sample, so that shapes agree with other ranks', and returns zeros, but
        # for gradients of experts that it holds for other ranks.
        few, fewer = (max(1, min(bound, real)) for bound in (self.config.samples, self.config.gradient_samples))
        sums = statistics(self.head, self.anatomy, v[:few])
        taught = self.head.objectives.taught(batch.labels, batch.teachers)
        rest = (batch.dense, batch.labels, batch.weights * batch.mask.unsqueeze(1), batch.durations, taught)
        sums |= gradients(self.head, self.anatomy, v[:fewer], *(x[:fewer] for x in rest))
        self.seconds += time.perf_counter() - began
        kept = ("gradient", "gradients", "shared_products")
        return {n: s if real or n.rpartition(".")[2] in kept else torch.zeros_like(s) for n, s in sums.items()}


def names_of(anatomy: Anatomy, tasks: TaskGroups, features: list[str]) -> Names:
    """Names of a model's parts and features, as figures use them."""
    parts = []
    for part in anatomy.parts:
        all_seen = [[True] * len(part.experts) for _ in part.gates]
        parts.append(
            PartNames(
                experts=list(part.experts),
                kinds=[owner.kind for owner in part.owners],
                owners=[owner.name for owner in part.owners],
                gates=[gate.name for gate in part.gates],
                gate_tasks=[gate.task for gate in part.gates],
                sees=all_seen if part.masked is None else part.masked.mask.tolist(),
                inputs=list(part.inputs) if part.feature_gate is not None else [],
                reads_features=part.reads_features,
            )
        )
    return Names(
        tasks=[tasks.name(k) for k in range(tasks.tasks)],
        groups=[tasks.group_name(group) for group in tasks.group_of],
        parts=parts,
        features=features,
        scalers=[name for name, _ in anatomy.scalers],
    )
