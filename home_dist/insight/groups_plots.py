"""Picture of a dendrogram."""

from collections.abc import Sequence

from home_dist.insight.clustering import Clusters, Merge
from home_dist.insight.groups_text import leaves
from home_dist.insight.plots import LINES
from home_dist.insight.svg import pyplot, uri


def dendrogram(tasks: Sequence[str], merges: Sequence[Merge], clusters: Clusters) -> str:
    """Branches within a cluster have its colour; those between clusters are grey."""
    order = leaves(merges)
    figure, axes = pyplot.subplots(figsize=(6.5, 0.8 + 0.24 * len(tasks)))
    ends = {k: (float(order.index(k)), 1.0, int(clusters[k])) for k in range(len(tasks))}  # row, affinity, cluster or -1
    for n, merge in enumerate(merges):
        (row, start, one), (other_row, other_start, other) = ends.pop(merge.left), ends.pop(merge.right)
        cluster = one if one == other else -1
        at = min(merge.affinity, start, other_start)
        for y, x, of in ((row, start, one), (other_row, other_start, other)):
            axes.plot([x, at], [y, y], color=_colour(of), linewidth=1.6)
        axes.plot([at, at], [row, other_row], color=_colour(cluster), linewidth=1.6)
        ends[len(tasks) + n] = (row + other_row) / 2, at, cluster
    axes.set_yticks(range(len(tasks)), [tasks[k] for k in order])
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    axes.invert_xaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("mean affinity, tanh(a / 3 se)")
    return uri(figure)


def _colour(cluster: int) -> str:
    return "#9aa3af" if cluster < 0 else LINES[cluster % len(LINES)]
