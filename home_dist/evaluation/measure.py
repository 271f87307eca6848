"""The metrics of scored samples, by each task's family."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from home_dist.distributed import health
from home_dist.evaluation.scores import Scored
from home_dist.ids.no_group import NO_GROUP
from home_dist.metrics import (
    ALONE,
    OverRanks,
    TaskMetrics,
    evaluate_classes,
    evaluate_number,
    evaluate_task,
    gauc_over_ranks,
    grouped_xauc_over_ranks,
    with_requests,
    with_users,
    within_requests_over_ranks,
)


def measured(
    samples: Scored, tasks: Sequence[str], users: NDArray[np.generic] | None = None, over: OverRanks = ALONE
) -> list[TaskMetrics]:
    """One entry per task, of the samples of all ranks in `over`. Raises DataError, which names the task.

    users: (N,), for metrics within users, which are of this rank's samples alone: over ranks see `within_users`.
    """
    metrics = []
    for k, (task, family) in enumerate(zip(tasks, samples.families.measured, strict=True)):
        if over.world > 1:
            health.meet()  # one task of a large split can take minutes
        labels, weights = samples.labels[:, k], samples.weights[:, k]
        scores = samples.scores[:, samples.families.columns(k)]
        if family == "binary":
            metrics.append(evaluate_task(task, labels, weights, scores[:, 0], users, logits=True, over=over))
        elif family == "number":
            metrics.append(evaluate_number(task, labels, weights, scores[:, 0], users, over))
        else:
            metrics.append(evaluate_classes(task, labels, weights, scores, over))
    return metrics


def within_all_requests(metrics: Sequence[TaskMetrics], samples: Scored, over: OverRanks) -> list[TaskMetrics]:
    """Adds metrics within requests, where they are known, of tasks whose labels order samples. Collective; requests are hashed
    to ranks. A label counts or does not, whatever its weight: a rank cannot be shared."""
    if samples.requests is None:
        return list(metrics)
    result = []
    for k, task in enumerate(metrics):
        health.meet()
        negative = over.count(int((samples.labels[samples.weights[:, k] > 0, k] < 0).sum()))
        if task.family == "class" or negative:
            result.append(task)
            continue
        labels, scores, requests, _ = _keyed(samples, k, samples.requests)
        result.append(with_requests(task, within_requests_over_ranks(labels, scores, requests)))
    return result


def within_users(metrics: Sequence[TaskMetrics], samples: Scored) -> list[TaskMetrics]:
    """Adds metrics within users. Collective. Sorting rows by user dominates evaluation, so users are hashed to ranks and each
    rank sorts its own users' rows."""
    result = []
    for k, task in enumerate(metrics):
        health.meet()
        if task.family == "class":
            result.append(task)
            continue
        over_ranks = gauc_over_ranks if task.family == "binary" else grouped_xauc_over_ranks
        result.append(with_users(task, over_ranks(*_keyed(samples, k, samples.groups))))
    return result


def _keyed(samples: Scored, task: int, keys: NDArray[np.generic]) -> tuple[torch.Tensor, ...]:
    """Labels, scores, keys and weights of the samples that count and have a key. Only these are exchanged: those without a
    key, which have one hash, would all go to one rank."""
    scores = samples.scores[:, samples.families.columns(task)][:, 0]
    rows = (samples.weights[:, task] > 0) & (keys != NO_GROUP)
    columns = (samples.labels[:, task], scores, keys, samples.weights[:, task])
    return tuple(torch.from_numpy(column[rows]) for column in columns)
