"""The metrics of scored samples, by each task's family."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from home_dist.distributed.ranks import Ranks
from home_dist.evaluation.scores import Scored
from home_dist.metrics import (
    TaskMetrics,
    evaluate_classes,
    evaluate_number,
    evaluate_tasks,
    gauc_over_ranks,
    grouped_xauc_over_ranks,
    with_requests,
    with_users,
    within_requests_over_ranks,
)


def measured(samples: Scored, tasks: Sequence[str], users: NDArray[np.generic] | None = None) -> list[TaskMetrics]:
    """One entry per task. users: (N,), for metrics within users. Raises DataError, which names the task."""
    metrics: dict[int, TaskMetrics] = {}
    binary = samples.families.tasks("binary")
    if binary:
        chosen = samples.of(binary)
        arrays = (chosen.labels, chosen.weights, chosen.scores)
        metrics |= zip(binary, evaluate_tasks([tasks[k] for k in binary], *arrays, users, logits=True), strict=True)
    for k, family in enumerate(samples.families.measured):
        labels, weights = samples.labels[:, k], samples.weights[:, k]
        scores = samples.scores[:, samples.families.columns(k)]
        if family == "number":
            metrics[k] = evaluate_number(tasks[k], labels, weights, scores[:, 0], users)
        elif family == "class":
            metrics[k] = evaluate_classes(tasks[k], labels, weights, scores)
    return [metrics[k] for k in range(len(tasks))]


def within_all_requests(metrics: Sequence[TaskMetrics], samples: Scored, ranks: Ranks) -> list[TaskMetrics]:
    """Adds metrics within requests, where they are known, of tasks whose labels order samples. Collective; requests are hashed
    to ranks. A label counts or does not, whatever its weight: a rank cannot be shared."""
    if samples.requests is None:
        return list(metrics)
    result = []
    [requests] = _share(ranks, samples.requests)
    for k, task in enumerate(metrics):
        known = samples.weights[:, k] > 0
        if task.family == "class" or (samples.labels[known, k] < 0).any():
            result.append(task)
            continue
        scores = samples.scores[:, samples.families.columns(k)][:, 0]
        labels, values, weights = _share(ranks, samples.labels[:, k].astype(np.float64), scores, known.astype(np.float64))
        result.append(with_requests(task, within_requests_over_ranks(labels, values, requests, weights)))
    return result


def within_users(metrics: Sequence[TaskMetrics], samples: Scored, ranks: Ranks) -> list[TaskMetrics]:
    """Adds metrics within users. Collective. Sorting rows by user dominates evaluation, so users are hashed to ranks and each
    rank sorts its own users' rows."""
    result = []
    [groups] = _share(ranks, samples.groups)
    for k, task in enumerate(metrics):
        if task.family == "class":
            result.append(task)
            continue
        scores = samples.scores[:, samples.families.columns(k)][:, 0]
        labels, values, weights = _share(ranks, samples.labels[:, k], scores, samples.weights[:, k])
        over_ranks = gauc_over_ranks if task.family == "binary" else grouped_xauc_over_ranks
        result.append(with_users(task, over_ranks(labels, values, groups, weights)))
    return result


def _share(ranks: Ranks, *columns: NDArray[np.generic]) -> tuple[torch.Tensor, ...]:
    """This rank's share of columns (N,) that all ranks hold: every world_size-th row."""
    share = slice(ranks.rank, None, ranks.world_size)
    return tuple(torch.from_numpy(np.ascontiguousarray(column[share])) for column in columns)
