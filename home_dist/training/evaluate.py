"""Scores of a split and its metrics, exact over ranks."""

import numpy as np
import torch
from torch import nn

from home_dist.data import Reader
from home_dist.metrics import TaskMetrics, evaluate_tasks, gather_rows
from home_dist.training.ranks import Ranks


@torch.no_grad()
def score(model: nn.Module, reader: Reader, ranks: Ranks) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All ranks' real samples of a split: probabilities (N, K), labels (N, K), weights (N, K), groups (N,).

    In the order of ranks; the same on every rank.
    """
    training = model.training
    model.eval()
    parts: list[list[torch.Tensor]] = [[], [], [], []]
    for batch in reader.epoch(0):
        real = batch.mask.bool()
        _, output = model(batch.to(ranks.device))
        columns = (torch.sigmoid(output.logits).cpu(), batch.labels, batch.weights, batch.groups)
        for part, column in zip(parts, columns, strict=True):
            part.append(column[real])
    model.train(training)
    scores, labels, weights, groups = gather_rows(*(torch.cat(part) for part in parts))
    return scores.double().numpy(), labels.numpy(), weights.numpy(), groups.numpy()


def evaluate(model: nn.Module, reader: Reader, tasks: list[str], grouped: bool, ranks: Ranks) -> list[TaskMetrics]:
    """Per task; `grouped` tells whether the data has a column for GAUC."""
    scores, labels, weights, groups = score(model, reader, ranks)
    return evaluate_tasks(tasks, labels, weights, scores, groups if grouped else None)
