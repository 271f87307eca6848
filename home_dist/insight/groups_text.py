"""`home-dist groups` on the terminal: a table, a dendrogram of letters, and what is to be said about both."""

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from home_dist.insight.clustering import Merge
from home_dist.insight.grouping import GROUND, STABLE, Grouping

_WIDTH = 48
"""Characters of the dendrogram, without the tasks' names."""


def groups_table(found: Grouping) -> Table:
    """One row per task, in the order of the dendrogram's leaves."""
    table = Table(title="groups of tasks, by their gradients")
    table.add_column("task", no_wrap=True)
    table.add_column("group now")
    table.add_column("proposed")
    for name in ("stable over steps", *(["over runs"] if found.over_runs is not None else []), "steps with a positive"):
        table.add_column(name, justify="right")
    changes = found.changes
    for k in leaves(found.merges):
        task = found.tasks[k]
        proposed = changes.get(task, found.groups[k])
        told = f"[bold]{escape(proposed)}[/bold]" if task in changes else escape(proposed)
        told += "" if found.clear[k] else " (not clear)"
        over_runs = [f"{found.over_runs[k]:.2f}"] if found.over_runs is not None else []
        table.add_row(
            escape(task), escape(found.groups[k]), told, f"{found.over_steps[k]:.2f}", *over_runs, f"{found.seen[k]:.0%}"
        )
    return table


def notes(found: Grouping) -> list[str]:
    """Lines below the table: on what ground it stands, and which tasks are not clear."""
    steps = sum(len(run.products) for run in found.runs)
    of = f"{steps:,} sampled steps" + (f" of {len(found.runs)} runs" if len(found.runs) > 1 else "")
    number = int(found.clusters.max()) + 1
    if not found.grounded:
        return [
            f"no proposal: over {of}, groups made on one half have an affinity within that is {found.held_out:.1f} standard "
            f"errors above the one between them on the other half; {GROUND:g} are needed. The tasks have no groups, or too few "
            "samples were looked at: train with a smaller insight.every_steps and more insight.gradient_samples, or give runs "
            "of other seeds as well"
        ]
    lines = [
        f"{number} groups over {of}; groups made on one half have an affinity within that is {found.held_out:.1f} standard "
        "errors above the one between them on the other half"
    ]
    unclear = [k for k, clear in enumerate(found.clear) if not clear]
    alone = [found.tasks[k] for k in unclear if found.alone[k]]
    if alone:
        lines.append(
            f"not clear: {', '.join(alone)}: pulls surely with no other task. Too rare to tell, or unrelated; keeps its group"
        )
    unstable = [found.tasks[k] for k in unclear if not found.alone[k]]
    if unstable:
        lines.append(f"not clear: {', '.join(unstable)}: stability below {STABLE:g}; keeps its group")
    if len(found.runs) == 1:
        lines.append("one run: what its initial values made is not told from what the data makes; runs of other seeds tell")
    if not found.changes:
        lines.append("nothing to change: the groups are the present ones, as far as they are clear")
    return lines


def dendrogram(tasks: Sequence[str], merges: Sequence[Merge]) -> list[str]:
    """A line per task. Branches meet at the mean affinity (affinity.py: `sure`) of the tasks that they join, between 1 on the
    left and the lowest on the right, which the last line tells."""
    order = leaves(merges)
    low = min([0.0, *(m.affinity for m in merges)])
    grid = [[" "] * (_WIDTH + 1) for _ in tasks]
    rows = {k: (order.index(k), 0) for k in range(len(tasks))}  # by cluster: the row and column where its branch ends
    for n, merge in enumerate(merges):
        (top, left), (bottom, right) = sorted((rows.pop(merge.left), rows.pop(merge.right)))
        at = max(left + 1, right + 1, round(_WIDTH * (1 - merge.affinity) / (1 - low)))
        at = min(at, _WIDTH)
        for row, start in ((top, left), (bottom, right)):
            for column in range(start, at):
                if grid[row][column] == " ":
                    grid[row][column] = "─"
        for row in range(top + 1, bottom):
            grid[row][at] = "│" if grid[row][at] == " " else grid[row][at]
        grid[top][at], grid[bottom][at] = "┬" if n < len(merges) - 1 else "┐", "┘"
        rows[len(tasks) + n] = top, at + 1
    width = max(map(len, tasks))
    lines = [f"{tasks[k]:<{width}} " + "".join(grid[row]).rstrip() for row, k in enumerate(order)]
    scale = f"{'1':<{_WIDTH // 2}}{(1 + low) / 2:<{_WIDTH - _WIDTH // 2}.2g}{low:.2g}"
    return [*lines, f"{'affinity':<{width}} {scale}"]


def leaves(merges: Sequence[Merge]) -> list[int]:
    """The tasks in an order in which those of each cluster stand together."""
    count = len(merges) + 1
    members = {k: [k] for k in range(count)}
    for n, merge in enumerate(merges):
        first, second = sorted((members.pop(merge.left), members.pop(merge.right)))
        members[count + n] = first + second
    [order] = members.values()
    return order
