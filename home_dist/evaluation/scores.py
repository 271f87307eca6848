"""A model's scores of a split, from all ranks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from home_dist.data import Reader
from home_dist.distributed import health
from home_dist.distributed.ranks import Ranks
from home_dist.metrics import gather_rows, sigmoid


@dataclass(frozen=True)
class Scored:
    """The real samples of a split from all ranks, in the order of ranks; the same on every rank."""

    logits: np.ndarray
    """(N, K) float64. Metrics use logits because probabilities round: in float32 all logits above 17 become the same one."""
    labels: np.ndarray
    weights: np.ndarray
    groups: np.ndarray
    """(N,)"""
    slices: np.ndarray
    """(N, S): ids or buckets of the S features of `[metrics] slices`."""

    @property
    def scores(self) -> np.ndarray:
        """Probabilities (N, K) float64."""
        return sigmoid(self.logits)


@torch.no_grad()
def scored(model: nn.Module, reader: Reader, ranks: Ranks, columns: Sequence[int] = ()) -> Scored:
    """Scores one epoch of `reader` in evaluation mode. Collective. columns: of Batch.small, kept as slices."""
    training = model.training
    model.eval()
    parts: list[list[torch.Tensor]] = [[], [], [], [], []]
    for batch in reader.epoch(0):
        real = batch.mask.bool()
        _, output = model(batch.to(ranks.device))
        kept = (output.logits.cpu(), batch.labels, batch.weights, batch.groups, batch.small[:, list(columns)])
        for part, column in zip(parts, kept, strict=True):
            part.append(column[real])
    model.train(training)
    health.meet()
    logits, labels, weights, groups, slices = gather_rows(*(torch.cat(part) for part in parts))
    return Scored(logits.double().numpy(), labels.numpy(), weights.numpy(), groups.numpy(), slices.numpy())


def without_broken(samples: Scored, tasks: Sequence[str]) -> tuple[Scored, list[str]]:
    """Gives weight 0 to tasks with NaN scores; returns a note for each. Their metrics are then undefined, as for a task without
    samples, but a long run in which one task has diverged still gets the metrics of the others."""
    broken = np.isnan(samples.logits) & (samples.weights > 0)
    notes = [
        f"task {task!r}: {count:,} of {rows:,} scores are NaN, so that its metrics are not defined. The model has diverged: "
        "lower train.lr, or look for NaN in dense features."
        for task, count, rows in zip(tasks, broken.sum(0).tolist(), (samples.weights > 0).sum(0).tolist(), strict=True)
        if count
    ]
    return replace(samples, weights=np.where(broken.any(0), 0, samples.weights)), notes
