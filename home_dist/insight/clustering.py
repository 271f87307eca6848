"""Clusters of tasks by affinity: agglomerative clustering with average linkage, and the cut of the tree that separates best."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from home_dist.insight.store import Floats

Clusters = NDArray[np.int64]
"""(K,): each task's cluster, numbered from 0 in the order of the clusters' first tasks."""


@dataclass(frozen=True)
class Merge:
    left: int
    right: int
    """Clusters that become one. 0 .. K - 1 are the tasks; merge n makes cluster K + n."""
    affinity: float
    """Mean affinity of the pairs of a task in one and a task in the other."""


def tree(affinity: Floats) -> list[Merge]:
    """Merges the two clusters of highest mean affinity until one is left (average linkage; Sokal and Michener 1958).

    affinity: (K, K), symmetric; the diagonal is not read. Returns the K - 1 merges in their order.
    """
    count = len(affinity)
    between = np.array(affinity, np.float64)
    np.fill_diagonal(between, -np.inf)
    names, sizes = list(range(count)), np.ones(count)
    merges = []
    for made in range(count, 2 * count - 1):
        a, b = sorted(divmod(int(between.argmax()), count))
        merges.append(Merge(min(names[a], names[b]), max(names[a], names[b]), float(between[a, b])))
        mean = (sizes[a] * between[a] + sizes[b] * between[b]) / (sizes[a] + sizes[b])
        between[a], between[:, a] = mean, mean
        between[b], between[:, b], between[a, a] = -np.inf, -np.inf, -np.inf
        names[a], sizes[a] = made, sizes[a] + sizes[b]
    return merges


def cut(merges: Sequence[Merge], clusters: int) -> Clusters:
    """The clusters once all merges but the last `clusters` - 1 are done. clusters: from 1 to K."""
    count = len(merges) + 1
    members = {k: [k] for k in range(count)}
    for n, merge in enumerate(merges[: count - clusters]):
        members[count + n] = members.pop(merge.left) + members.pop(merge.right)
    found = np.empty(count, np.int64)
    for number, tasks in enumerate(sorted(sorted(m) for m in members.values())):
        found[tasks] = number
    return found


def separation(affinity: Floats, clusters: Clusters) -> float:
    """Point-biserial correlation between the affinity of a pair of tasks and whether both are in one cluster (Milligan 1981).

    Among the rules for the number of clusters it needs no scale, and one cluster per task or one for all has no value: NaN.
    """
    pairs = np.triu_indices(len(affinity), 1)
    together = (clusters[:, None] == clusters[None])[pairs].astype(np.float64)
    values = affinity[pairs]
    if together.std() == 0 or values.std() == 0:
        return float("nan")
    return float(np.corrcoef(together, values)[0, 1])


def clusters_of(affinity: Floats, clusters: int | None = None) -> Clusters:
    """The cut of the tree into so many clusters; by default the one of highest `separation`, all in one where none has any."""
    merges = tree(affinity)
    if clusters is not None:
        return cut(merges, clusters)
    cuts = [cut(merges, n) for n in range(2, len(affinity))]
    scores = [separation(affinity, c) for c in cuts]
    if not cuts or np.isnan(scores).all():
        return cut(merges, 1)
    return cuts[int(np.nanargmax(scores))]
