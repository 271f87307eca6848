"""Metrics of slices of a split whose rows ranks share.

A slice of more rows than a rank should hold beside its own is measured over ranks, as the split is. Others go to one rank each,
some at a time, and are measured there.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from home_dist.distributed import health
from home_dist.evaluation.measure import measured, within_users
from home_dist.evaluation.scores import Scored
from home_dist.metrics import OverRanks, Slice, TaskMetrics, slices_of

_SHARE = 4
"""Slices that are measured at a time take this part of a rank's share of rows."""


def measured_slices(
    features: Sequence[str], samples: Scored, tasks: Sequence[str], grouped: bool, at_least: int, over: OverRanks
) -> list[Slice]:
    """Each value of each feature that at least `at_least` samples of all ranks have. Collective. grouped: whether samples have
    users."""
    if over.world == 1:

        def of_rows(rows: NDArray[np.intp]) -> list[TaskMetrics]:
            return _alone(samples.rows(rows), tasks, grouped)

        return list(slices_of(features, samples.slices, of_rows, at_least))
    result = []
    for feature, column in zip(features, samples.slices.T, strict=True):
        order = np.argsort(column, kind="stable")
        own, first = np.unique(column[order], return_index=True)
        rows = {int(value): of for value, of in zip(own, np.split(order, first[1:]), strict=True)} if len(own) else {}
        sizes = _sizes(rows, over)
        most = sum(sizes.values()) // (_SHARE * over.world)
        sizes = {value: size for value, size in sizes.items() if size >= at_least}
        slices = {}
        for value in [v for v, size in sizes.items() if size > most]:
            part = samples.rows(rows.get(value, np.empty(0, np.intp)))
            metrics = measured(part, tasks, over=over)
            slices[value] = Slice(feature, value, sizes.pop(value), within_users(metrics, part) if grouped else metrics)
        for turn in _turns(sizes, most, over.world):
            slices |= _by_rank(feature, samples, rows, turn, tasks, grouped, over)
        result += [slices[value] for value in sorted(slices)]
    return result


def _sizes(rows: dict[int, NDArray[np.intp]], over: OverRanks) -> dict[int, int]:
    """By value, in order: its rows on all ranks."""
    total: dict[int, int] = {}
    for of_rank in over.objects({value: len(of) for value, of in rows.items()}):
        for value, size in of_rank.items():
            total[value] = total.get(value, 0) + size
    return dict(sorted(total.items()))


def _turns(sizes: dict[int, int], most: int, world: int) -> Iterator[list[list[int]]]:
    """Values for each rank, in turns in which no rank gets more than `most` rows. Each size is at most `most`."""
    turn: list[list[int]] = [[] for _ in range(world)]
    held = [0] * world
    for value, size in sorted(sizes.items(), key=lambda item: -item[1]):
        rank = held.index(min(held))
        if held[rank] + size > most:
            yield turn
            turn, held, rank = [[] for _ in range(world)], [0] * world, 0
        turn[rank].append(value)
        held[rank] += size
    if any(turn):
        yield turn


def _by_rank(
    feature: str,
    samples: Scored,
    rows: dict[int, NDArray[np.intp]],
    turn: list[list[int]],
    tasks: Sequence[str],
    grouped: bool,
    over: OverRanks,
) -> dict[int, Slice]:
    """Gives each rank all rows of its values, and all ranks the slices. Collective."""
    empty = np.empty(0, np.intp)
    sent = [np.concatenate([empty, *(rows.get(value, empty) for value in values)]) for values in turn]
    chosen = np.concatenate(sent)
    which = np.repeat(
        [n for values in turn for n in range(len(values))], [len(rows.get(v, empty)) for values in turn for v in values]
    )
    ends = np.cumsum([len(part) for part in sent])
    part, came = _exchanged(samples, chosen, which.astype(np.int64), ends, over)
    order = np.argsort(came, kind="stable")  # rows of a slice in the order of ranks
    bounds = np.searchsorted(came[order], np.arange(len(turn[over.rank]) + 1))

    def own() -> list[Slice]:
        found = []
        for n, value in enumerate(turn[over.rank]):
            of = part.rows(order[bounds[n] : bounds[n + 1]])
            found.append(Slice(feature, value, len(of.groups), _alone(of, tasks, grouped)))
        return found

    slices = over.agreed(own)
    health.meet()
    return {s.value: s for of_rank in over.objects(slices) for s in of_rank}


def _exchanged(
    samples: Scored, chosen: NDArray[np.intp], which: NDArray[np.int64], ends: NDArray[np.intp], over: OverRanks
) -> tuple[Scored, NDArray[np.int64]]:
    """Rows that this rank is given, and which of its slices each belongs to. chosen: this rank's rows, sorted by receiver."""

    def moved(column: NDArray[np.generic]) -> NDArray[np.generic]:
        return over.exchanged(ends, column)[1][0]

    def table(columns: NDArray[np.generic]) -> NDArray[np.generic]:
        return np.stack([moved(column[chosen]) for column in columns.T], axis=1)

    came = over.exchanged(ends, which)[1][0]
    part = Scored(
        scores=table(samples.scores),
        labels=table(samples.labels),
        weights=table(samples.weights),
        groups=moved(samples.groups[chosen]),
        slices=np.empty((came.size, 0), np.int64),
        families=samples.families,
    )
    return part, came


def _alone(samples: Scored, tasks: Sequence[str], grouped: bool) -> list[TaskMetrics]:
    return measured(samples, tasks, samples.groups if grouped else None)
