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
    """All ranks' real samples of a split, in the order of ranks; the same on every rank."""

    logits: np.ndarray
    """(N, K) float64: metrics are of these. Probabilities round: in float32 all logits above 17 are the same one."""
    labels: np.ndarray
    weights: np.ndarray
    groups: np.ndarray
    """(N,)"""
    slices: np.ndarray
    """(N, S): ids or buckets of chosen features."""

    @property
    def scores(self) -> np.ndarray:
        """Probabilities (N, K) float64."""
        return sigmoid(self.logits)


@torch.no_grad()
def scored(model: nn.Module, reader: Reader, ranks: Ranks, columns: Sequence[int] = ()) -> Scored:
    """columns: of Batch.small, to be kept as slices."""
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


def without_broken(found: Scored, tasks: Sequence[str]) -> tuple[Scored, list[str]]:
    """Takes out, by weight 0, tasks whose scores are NaN: a long run that ends with a task that has diverged still tells what
    the others came to, and that task's metrics are not defined, as those of a task without samples."""
    broken = np.isnan(found.logits) & (found.weights > 0)
    notes = [
        f"task {task!r}: {count:,} of {rows:,} scores are NaN, so that its metrics are not defined. The model has diverged: "
        "lower train.lr, or look for NaN in dense features."
        for task, count, rows in zip(tasks, broken.sum(0).tolist(), (found.weights > 0).sum(0).tolist(), strict=True)
        if count
    ]
    return replace(found, weights=np.where(broken.any(0), 0, found.weights)), notes
