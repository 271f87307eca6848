"""What `home-dist groups` leaves in a run's folder: groups.json, groups.html, and groups.toml to train the proposal with."""

from html import escape
from pathlib import Path
from typing import Any

from home_dist.config import load_config, save_config
from home_dist.errors import ConfigError
from home_dist.files.json_files import write_json
from home_dist.files.whole import write_whole
from home_dist.insight import groups_plots, plots
from home_dist.insight.affinity import transfer
from home_dist.insight.clustering import separation
from home_dist.insight.grouping import Grouping
from home_dist.insight.groups_text import leaves, notes
from home_dist.insight.page import Cell, PageSection, grid, page, picture, table


def write_groups(found: Grouping, run: Path, out: Path | None = None) -> Path | None:
    """Writes groups.json and groups.html into the run's folder. If the proposal changes anything, writes the run's
    configuration with the proposed groups to `out`, by default groups.toml there, and returns its path; else None. Raises
    ConfigError where a file cannot be written."""
    target = out or run / "groups.toml"
    config = load_config(run / "config.toml")
    try:
        write_json(run / "groups.json", to_json(found))
        write_whole(run / "groups.html", groups_page(found))
        if not found.changes:
            if out is None:
                target.unlink(missing_ok=True)  # an earlier proposal
            return None
        data = config.data.model_copy(update={"groups": {**config.data.groups, **found.changes}})
        folder = config.run.model_copy(update={"dir": f"{config.run.dir.rstrip('/')}-groups"})
        save_config(config.model_copy(update={"data": data, "run": folder}), target)
    except OSError as error:
        raise ConfigError(
            f"groups of {run} cannot be written: {error}. Make room there, or choose a place with --out"
        ) from None
    return target


def to_json(found: Grouping) -> dict[str, Any]:
    """tasks: by task its group, the proposed one, stability, whether it is clear. Matrices have rows and columns in the order
    of these tasks; transfer: row i is the task whose step it is."""
    rows = {
        task: {
            "group": found.groups[k],
            "proposed": found.changes.get(task, found.groups[k]),
            "cluster": int(found.clusters[k]),
            "clear": found.clear[k],
            "stable_over_steps": float(found.over_steps[k]),
            "stable_over_runs": None if found.over_runs is None else float(found.over_runs[k]),
            "steps_with_a_positive": float(found.seen[k]),
        }
        for k, task in enumerate(found.tasks)
    }
    return {
        "runs": {str(r.run.path): len(r.products) for r in found.runs},
        "tasks": rows,
        "grounded": found.grounded,
        "held_out": found.held_out,
        "separation": separation(found.affinity.sure, found.clusters),
        "merges": [[m.left, m.right, m.affinity] for m in found.merges],
        "affinity": found.affinity.mean.tolist(),
        "standard_error": found.affinity.standard_error.tolist(),
        "sure": found.affinity.sure.tolist(),
        "together": found.together.tolist(),
        "transfer": transfer(found.runs).tolist(),
    }


def groups_page(found: Grouping) -> str:
    order = leaves(found.merges)
    names = [found.tasks[k] for k in order]
    changes, several = found.changes, found.over_runs is not None
    rows: list[list[str | Cell]] = []
    for k in order:
        task = found.tasks[k]
        proposed = Cell(
            changes.get(task, found.groups[k]), "" if found.clear[k] else "not clear", "better" if task in changes else ""
        )
        over_runs = [f"{found.over_runs[k]:.2f}"] if found.over_runs is not None else []
        rows.append([task, found.groups[k], proposed, f"{found.over_steps[k]:.2f}", *over_runs, f"{found.seen[k]:.0%}"])
    head = ["task", "group now", "proposed", "stable over steps", *(["over runs"] if several else []), "steps with a positive"]
    said = "".join(f'<div class="quiet">{escape(line)}</div>' for line in notes(found))

    def shown(title: str, values: Any, signed: bool = True) -> str:
        part = values[order][:, order]
        uri = plots.signed_map(title, part, names) if signed else plots.heat_map(title, part, names, names)
        return picture(uri, title)

    maps = [
        shown("how surely two tasks pull together", found.affinity.sure),
        shown("affinity", found.affinity.mean),
        shown("share of halves with both in a group", found.together, signed=False),
        shown("gain by a step on another task", transfer(found.runs)),
    ]
    sections = [
        PageSection(
            "proposal",
            "Proposal",
            "stable: mean similarity (Jaccard) of the task's proposed group with its group in halves of the sampled steps, at "
            "most 1; over runs: with its group by each run alone. A task that is not clear keeps its group.",
            table(head, rows) + said,
        ),
        PageSection(
            "dendrogram",
            "Dendrogram",
            "Branches meet at the mean affinity of the tasks that they join, in the measure of the first map.",
            picture(groups_plots.dendrogram(found.tasks, found.merges, found.clusters), "dendrogram of tasks"),
        ),
        PageSection(
            "affinities",
            "Affinities",
            "Of tasks' gradients on the feature vector, over all sampled steps. First: affinity in standard errors, from which "
            "groups are made, tanh(a / 3 se). Affinity: inner product over norms. Last: what the column's task gains from a "
            "step on the row's task, as a share of what it gains from its own (Fifty et al. 2021, to first order).",
            grid(maps, "pair"),
        ),
    ]
    steps = sum(len(r.products) for r in found.runs)
    facts = [
        ("sampled steps", f"{steps:,}"),
        ("runs", str(len(found.runs))),
        ("groups found", str(int(found.clusters.max()) + 1)),
        ("changes", str(len(changes))),
        ("held out, standard errors", f"{found.held_out:.1f}"),
    ]
    first = found.runs[0].run
    return page(f"{first.name}: groups of tasks", f"{first.model_kind} · {len(names)} tasks", facts, sections)
