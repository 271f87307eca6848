"""A proposed group per task, with its stability over steps and runs, and whether there is any ground for it.

Stability: the sampled steps are halved at random many times, and each half is clustered by itself. A task's stability is the
mean over halves of the Jaccard similarity of its group there and its proposed group (members of both over members of either),
as Hennig (Computational Statistics & Data Analysis 2007) judges clusters; from 0.75 on they count as valid there. Ground: the
groups of one half are measured in the other half, where noise that made them is not; see `held_out`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from home_dist.errors import ConfigError
from home_dist.insight.affinity import Affinity, RunSteps, affinity
from home_dist.insight.clustering import Clusters, Merge, clusters_of, tree
from home_dist.insight.run_figures import RunFigures
from home_dist.insight.store import Floats

HALVINGS = 100
STABLE = 0.75
GROUND = 4.0
"""Standard errors by which affinity within groups must exceed that between them, on steps that did not make the groups. Chance
over steps alone would need 2; but what a run's initial values have made lasts over its steps as well, and gave up to 3.3 where
tasks had nothing in common (benchmarks/papers/groups.py)."""


@dataclass(frozen=True)
class Grouping:
    runs: list[RunSteps]
    affinity: Affinity
    clusters: Clusters
    over_steps: Floats
    """(K,): stability over halves of the steps."""
    over_runs: Floats | None
    """(K,): mean Jaccard similarity with the group that each run by itself gives; None for one run."""
    together: Floats
    """(K, K): share of halves in which two tasks are in one group."""
    held_out: float
    """Affinity within groups less that between them, measured on the half that did not make the groups: mean over halvings, in
    standard errors."""

    @property
    def tasks(self) -> list[str]:
        return self.runs[0].tasks

    @property
    def groups(self) -> list[str]:
        """K: groups as they are in the first run."""
        return self.runs[0].groups

    @property
    def seen(self) -> Floats:
        """(K,): share of the sampled steps with a positive sample of the task."""
        return np.average([run.seen for run in self.runs], axis=0, weights=[len(run.products) for run in self.runs])

    @cached_property
    def merges(self) -> list[Merge]:
        return tree(self.affinity.sure)

    @property
    def grounded(self) -> bool:
        return self.held_out >= GROUND

    @property
    def clear(self) -> list[bool]:
        """K: whether a group can be proposed for the task. Not for one that is alone: affinities near 0 are those of a task
        that has nothing in common with others, and those of one that is too rare to tell."""
        stable = self.over_steps >= STABLE
        if self.over_runs is not None:
            stable &= self.over_runs >= STABLE
        return [self.grounded and bool(s) and not alone for s, alone in zip(stable, self.alone, strict=True)]

    @property
    def alone(self) -> list[bool]:
        """K: whether no other task is in the task's cluster."""
        return (np.bincount(self.clusters)[self.clusters] == 1).tolist()

    @property
    def proposed(self) -> list[str]:
        """K: groups by name. A task that is not clear keeps its group."""
        names = group_names(self.clusters, self.groups, self.tasks)
        return [
            names[c] if clear else group
            for c, clear, group in zip(self.clusters.tolist(), self.clear, self.groups, strict=True)
        ]

    @property
    def changes(self) -> dict[str, str]:
        """By task whose proposed group is another one, that group. Empty where the proposal has the same members as now."""
        if np.array_equal(numbered(self.proposed), numbered(self.groups)):
            return {}
        return {t: p for t, p, g in zip(self.tasks, self.proposed, self.groups, strict=True) if p != g}


def propose(runs: Sequence[RunFigures], groups: int | None = None, seed: int = 0) -> Grouping:
    """runs: of the same tasks, such as seeds of one configuration. groups: their number; by default chosen (clustering.py).

    Raises ConfigError for runs that have recorded too little, for runs of different tasks, and for a number of groups that
    cannot be.
    """
    steps = [RunSteps.of(run) for run in runs]
    for other in steps[1:]:
        if other.tasks != steps[0].tasks:
            raise ConfigError(
                f"{other.run.path}: trains {', '.join(other.tasks)}, and {steps[0].run.path} {', '.join(steps[0].tasks)}. Give "
                "runs of the same tasks"
            )
    for n, other in enumerate(steps):
        for before in steps[:n]:
            if np.array_equal(before.products, other.products):
                raise ConfigError(
                    f"{other.run.path}: has recorded the same gradients as {before.run.path}, so that it tells nothing more. "
                    "Give runs of other seeds"
                )
    count = len(steps[0].tasks)
    if groups is not None and not 2 <= groups < count:
        known = f"2 to {count - 1}" if count > 2 else "no other number of"
        raise ConfigError(f"--groups {groups}: {count} tasks make {known} groups that gradients could tell apart")
    whole = affinity(steps)
    clusters = clusters_of(whole.sure, groups)
    random = np.random.default_rng(seed)
    found, margins = [], []
    for _ in range(HALVINGS):
        orders = [random.permutation(len(run.products)) for run in steps]
        halves = [affinity(steps, [np.sort(o[part::2]) for o in orders]) for part in (0, 1)]
        parts = [clusters_of(half.sure, groups) for half in halves]
        margins += [held_out(parts[0], halves[0], halves[1]), held_out(parts[1], halves[1], halves[0])]
        found += parts
    alone = [clusters_of(affinity([run]).sure, groups) for run in steps]
    return Grouping(
        steps,
        whole,
        clusters,
        np.mean([likeness(clusters, c) for c in found], 0),
        np.mean([likeness(clusters, c) for c in alone], 0) if len(steps) > 1 else None,
        np.mean([c[:, None] == c[None] for c in found], 0),
        float(np.mean(margins)),
    )


def likeness(one: Clusters, other: Clusters) -> Floats:
    """(K,): Jaccard similarity of each task's clusters in two clusterings."""
    first, second = (c[:, None] == c[None] for c in (one, other))
    return (first & second).sum(1) / (first | second).sum(1)


def held_out(clusters: Clusters, made: Affinity, other: Affinity) -> float:
    """Mean affinity of pairs within clusters less that of pairs between them, on the steps of `other`, in standard errors over
    these steps. Pairs are scaled by their deviation over the steps of `made`. 0 where all or no pairs are within."""
    pairs = np.triu_indices(len(clusters), 1)
    within = (clusters[:, None] == clusters[None])[pairs]
    if within.all() or not within.any():
        return 0.0
    deviation = made.products.std(0, ddof=1)[pairs]
    scaled = other.products[:, *pairs] / np.maximum(deviation, 1e-12)
    margin = scaled[:, within].mean(1) - scaled[:, ~within].mean(1)
    return float(margin.mean() / max(margin.std(ddof=1) / np.sqrt(len(margin)), 1e-12))


def group_names(clusters: Clusters, groups: Sequence[str], tasks: Sequence[str]) -> list[str]:
    """A name for each cluster: of the present group with which it shares most tasks, each name once; a new one, after its first
    task, for the rest."""
    shared = Counter(zip(clusters.tolist(), groups, strict=True))
    names: dict[int, str] = {}
    for (cluster, group), _ in sorted(shared.items(), key=lambda entry: -entry[1]):
        if cluster not in names and group not in names.values():
            names[cluster] = group
    for cluster in range(max(clusters.tolist()) + 1):
        if cluster not in names:
            name = f"{tasks[clusters.tolist().index(cluster)]}_group"
            while name in names.values() or name in groups:
                name += "_"
            names[cluster] = name
    return [names[c] for c in range(len(names))]


def numbered(groups: Sequence[str]) -> Clusters:
    """Groups by name -> clusters, numbered in the order of their first tasks."""
    names = list(dict.fromkeys(groups))
    return np.array([names.index(g) for g in groups])
