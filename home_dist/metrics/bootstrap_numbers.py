"""Intervals of MAE, RMSE and XAUC from resampled users, in the same draws as metrics.bootstrap."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from home_dist.metrics.bootstrap import Bootstrap, grouped_in_draws, undefined
from home_dist.metrics.draws import Draws, ratio
from home_dist.metrics.evaluation import as_tables
from home_dist.metrics.regression import finite_numbers, mean_absolute_error_of, root_mean_squared_error_of
from home_dist.metrics.samples import Floats, Samples, counted_numbers
from home_dist.metrics.xauc import xauc_by_group, xauc_of, xauc_of_sorted


def bootstrap_errors(
    task_names: Sequence[str],
    labels: ArrayLike,
    weights: ArrayLike,
    predictions: ArrayLike,
    groups: ArrayLike,
    resamples: int = 200,
    seed: int = 0,
) -> tuple[Bootstrap, Bootstrap]:
    """MAE and RMSE over `resamples` draws of groups. Labels, weights and predictions are (N, K), groups (N,).

    Raises DataError, which names the task, as metrics.mean_absolute_error does.
    """
    y, w, p, names = as_tables(task_names, labels, weights, predictions, groups)
    draws = Draws.of(np.asarray(names), resamples, seed)
    absolute, square = (undefined(task_names, resamples) for _ in range(2))
    for k, task in enumerate(task_names):
        samples = finite_numbers(y[:, k], p[:, k], w[:, k], task)
        member = draws.user[samples.kept]
        error = np.abs(samples.scores - samples.labels)
        weight = draws.summed(member, samples.weights)
        largest = float(error.max(initial=0.0)) or 1.0  # squares of errors relative to it cannot overflow
        mean_square = ratio(draws.summed(member, samples.weights * np.square(error / largest)), weight)
        absolute.estimate[k] = mean_absolute_error_of(samples)
        absolute.draws[:, k] = ratio(draws.summed(member, samples.weights * error), weight)
        square.estimate[k] = root_mean_squared_error_of(samples)
        square.draws[:, k] = largest * np.sqrt(mean_square)
    return absolute, square


def bootstrap_xauc(
    task_names: Sequence[str],
    labels: ArrayLike,
    weights: ArrayLike,
    predictions: ArrayLike,
    groups: ArrayLike,
    resamples: int = 200,
    seed: int = 0,
) -> tuple[Bootstrap, Bootstrap]:
    """XAUC and XAUC by group over `resamples` draws of groups. Labels, weights and predictions are (N, K), groups (N,).

    Pairs of two users have another weight in each draw, so that each draw counts all pairs anew: for 300,000 rows, 200 draws
    take some 6 s per task. Raises DataError, which names the task, as metrics.xauc does.
    """
    y, w, p, names = as_tables(task_names, labels, weights, predictions, groups)
    draws = Draws.of(np.asarray(names), resamples, seed)
    pooled, grouped = (undefined(task_names, resamples) for _ in range(2))
    for k, task in enumerate(task_names):
        samples = counted_numbers(y[:, k], p[:, k], w[:, k], task)
        member = draws.user[samples.kept]
        pooled.estimate[k], pooled.draws[:, k] = xauc_of(samples), _in_draws(samples, member, draws)
        grouped.estimate[k], grouped.draws[:, k] = grouped_in_draws(xauc_by_group(samples, member), draws)
    return pooled, grouped


def _in_draws(samples: Samples, user: NDArray[np.intp], draws: Draws) -> Floats:
    """(R,) pooled XAUC in each draw. Rows are sorted once."""
    order = np.lexsort((samples.labels, samples.scores))
    label, score, weight = samples.labels[order], samples.scores[order], samples.weights[order]
    member = user[order]
    times = np.ascontiguousarray(draws.times.numpy().T)
    values = np.full(len(times), np.nan)
    for draw, times_of_user in enumerate(times):
        repeated = times_of_user[member]
        drawn = repeated > 0
        if drawn.any():
            one_group = np.arange(np.count_nonzero(drawn)) == 0
            value, _ = xauc_of_sorted(label[drawn], score[drawn], (weight * repeated)[drawn], one_group)
            values[draw] = value[0]
    return values
