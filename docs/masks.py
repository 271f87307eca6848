"""Pictures of which experts a gate may see, one per kind of model, drawn from the models themselves."""

import io
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from home_dist.config.model import MODELS
from home_dist.insight.svg import pyplot
from home_dist.models import TaskGroups, build_model
from home_dist.models.anatomy import Part

TASKS = TaskGroups((0, 0, 0, 1), ("like", "comment", "follow", "watch"), ("interaction", "watching"))
SEEN = {"shared": "#2563a8", "group": "#2a9d76", "task": "#d9730d"}
FEW = {
    "smes": {"experts": 8},
    "esmm": {"after": {"comment": "like"}},
    "ml_mmoe": {"experts": 4},
    "mmoe": {"experts": 4},
    "omoe": {"experts": 4},
}


def mask_pages(docs: Path) -> dict[Path, str]:
    """By file: the picture, of every kind whose gates mix experts."""
    pages = {}
    for kind in MODELS:
        model = build_model(MODELS.read({"kind": kind, **FEW.get(kind, {})}), 16, TASKS, {"user": range(8)})
        parts = [part for part in model.anatomy(TASKS).parts if part.masked is not None]
        if parts:
            pages[docs / "pictures" / f"mask_{kind}.svg"] = picture(parts)
    return pages


def picture(parts: list[Part]) -> str:
    """One panel per layer: a row per gate, a column per expert, coloured where the gate sees it, by the expert's owner; a dot
    where a self gate adds the expert a second time."""
    widths = [len(part.experts) for part in parts]
    size = (1.6 * len(parts) + 0.36 * sum(widths), 1.5 + 0.3 * max(len(part.gates) for part in parts))
    figure, panels = pyplot.subplots(1, len(parts), figsize=size, width_ratios=widths, squeeze=False, layout="constrained")
    for axes, part in zip(panels[0], parts, strict=True):
        assert part.masked is not None
        sees, again = part.masked.mask, None if part.self_gates is None else part.self_gates.mask
        for row, _ in enumerate(part.gates):
            for column, owner in enumerate(part.owners):
                colour = SEEN[owner.kind] if bool(sees[row, column]) else "#eef0f3"
                axes.add_patch(pyplot.Rectangle((column, row), 0.9, 0.9, color=colour, linewidth=0))
                if again is not None and bool(again[row, column]):
                    axes.plot(column + 0.45, row + 0.45, "o", color="white", markersize=4)
        axes.set(xlim=(-0.1, len(part.experts)), ylim=(len(part.gates), -0.1), title=part.experts[0].rpartition("/")[0])
        axes.set_xticks([c + 0.45 for c in range(len(part.experts))], [e.rpartition("/")[2] for e in part.experts], rotation=90)
        axes.set_yticks([r + 0.45 for r in range(len(part.gates))], [g.name.rpartition("/")[2] for g in part.gates])
        axes.grid(visible=False)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    owners = {owner.kind for part in parts for owner in part.owners}
    names = {"shared": "shared expert", "group": "of a group", "task": "of a task"}
    keys = [Patch(color=SEEN[kind], label=names[kind]) for kind in SEEN if kind in owners]
    figure.legend(handles=keys, loc="outside lower center", ncols=3, frameon=False)
    return as_svg(figure)


def as_svg(figure: Figure) -> str:
    """The picture's text, the same for the same picture. Closes the figure."""
    with matplotlib.rc_context({"svg.hashsalt": "home_dist", "svg.fonttype": "none"}):
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"
