"""The report's sections about the model's inside: experts, gates, gradients, feature gates, embedding tables."""

from collections.abc import Callable, Sequence
from html import escape

import numpy as np

from home_dist.insight import plots
from home_dist.insight.page import PageSection, grid, picture, table
from home_dist.insight.run_record import RunRecord
from home_dist.insight.store import Floats, Names, PartNames, StepRecord

_KINDS = ("shared", "group", "task")
_STEPS_SHOWN = 12
"""Records, at most, that are rows of a picture."""
_MAPS = 3
"""Records whose gates are shown side by side."""


def inside_sections(runs: Sequence[RunRecord]) -> list[PageSection]:
    return [
        PageSection(
            "experts",
            "Experts",
            "Outputs in the latest record. Healthy experts have outputs of one size. zero: share of outputs that are 0; "
            "saturated: share of units that hardly vary over samples; dead: share of units that are nothing for any sample. "
            f"Curves by kind: shared experts {plots.KIND_NAMES['shared']}, those of groups {plots.KIND_NAMES['group']}, "
            f"those of tasks {plots.KIND_NAMES['task']}.",
            _side_by_side(runs, _experts),
        ),
        PageSection(
            "gates",
            "Gates",
            "What each gate (row) mixes of which expert (column): the contribution of an expert is its weight times the norm "
            "of its output, as share of the gate's sum, because a large weight on a small output means nothing. Grey: what the "
            "gate may not see.",
            _side_by_side(runs, _gates),
        ),
        PageSection(
            "gradients",
            "Tasks' gradients",
            "How strongly each task trains the experts of each kind, and whether tasks pull in the same direction (blue: they "
            "pull against each other). Means over the latter half of the records.",
            _side_by_side(runs, _gradients),
        ),
        PageSection(
            "features",
            "Feature gates",
            "Mean factor of the features that each group of experts amplifies or damps most; gates start near 1.",
            _side_by_side(runs, _features),
        ),
        PageSection(
            "tables",
            "Embedding tables",
            "Sharded tables at the latest checkpoint. Growth: size of trained rows over the size that tables start with.",
            _side_by_side(runs, _tables),
        ),
    ]


def _side_by_side(runs: Sequence[RunRecord], make: Callable[[RunRecord], str]) -> str:
    bodies = []
    for run in runs:
        body = make(run)
        if body:
            bodies.append(f"<div><h3>{escape(run.name)}</h3>{body}</div>" if len(runs) > 1 else body)
    return grid(bodies, "pair") if len(runs) > 1 and bodies else "".join(bodies)


def _experts(run: RunRecord) -> str:
    if run.names is None or not run.records or not run.names.parts:
        return ""
    body = ""
    for n, part in enumerate(run.names.parts):
        latest = run.records[-1].figures
        rows = []
        for e, expert in enumerate(part.experts):
            figures = [
                float(latest[f"{n}.{f}"][e]) for f in ("mean", "std", "zero_rate", "saturation", "dead_units", "gradient")
            ]
            shares = [f"{x:.0%}" for x in figures[2:5]]
            rows.append([_short([expert])[0], f"{figures[0]:.3g}", f"{figures[1]:.3g}", *shares, f"{figures[5]:.2g}"])
        body += f"<h3>{escape(_layer(part, n))}</h3>"
        spread = picture(
            plots.distributions(_short(part.experts), latest[f"{n}.histogram"]),
            f"distribution of outputs of {', '.join(part.experts)}",
            "Distribution of outputs.",
        )
        over_time = [
            picture(_over_time(run.records, n, part, figure, title, log), f"{title} over steps")
            for figure, title, log in (
                ("std", "deviation of outputs", True),
                ("gradient", "norm of the gradient", True),
            )
        ]
        head = ["expert", "mean", "std", "zero", "saturated", "dead", "gradient"]
        body += grid([table(head, rows), spread], "pair") + grid(over_time)
    return body


def _over_time(records: Sequence[StepRecord], n: int, part: PartNames, figure: str, title: str, log: bool) -> str:
    steps = [r.step for r in records]
    shown = [(e, steps, [float(r.figures[f"{n}.{figure}"][i]) for r in records]) for i, e in enumerate(_short(part.experts))]
    return plots.lines(f"{title}, by kind of expert", shown, [plots.KIND_COLOURS[kind] for kind in part.kinds], log=log)


def _gates(run: RunRecord) -> str:
    if run.names is None or not run.records:
        return ""
    body = ""
    for n, part in enumerate(run.names.parts):
        if not part.gates:
            continue
        gates, experts, latest = _short(part.gates), _short(part.experts), run.records[-1].figures
        chosen = _spread(run.records, _MAPS)[::-1]
        seen = np.array(part.sees)
        maps = []
        for record in chosen:
            shown = plots.heat_map(f"step {record.step:,}", record.figures[f"{n}.contribution"], gates, experts, seen)
            maps.append(picture(shown, f"contribution of experts to gates at step {record.step}", scroll=len(experts) > 24))
        parts = []
        kinds = [k for k in _KINDS if k in part.kinds]
        if len(kinds) > 1:
            shares = {k: latest[f"{n}.contribution"][:, [i == k for i in part.kinds]].sum(1) for k in kinds}
            parts.append(picture(plots.stacked_shares("contribution by kind", gates, shares), "contribution by kind of expert"))
        steps = [r.step for r in run.records]
        effective = [(g, steps, [float(r.figures[f"{n}.effective"][k]) for r in run.records]) for k, g in enumerate(gates)]
        parts.append(picture(plots.lines("effective number of experts", effective, low=0), "effective number of experts"))
        if len(gates) > 1:
            correlation = plots.signed_map("correlation of gates", latest[f"{n}.correlation"], gates)
            parts.append(picture(correlation, "correlation between gates over samples"))
        body += f"<h3>{escape(_layer(part, n))}</h3>" + grid(maps, "pair") + grid(parts)
        if f"{n}.load" in latest:
            body += _choices(run.records, chosen, n, gates, experts)
    return body


def _spread(records: Sequence[StepRecord], most: int) -> list[StepRecord]:
    """At most so many records, the first and the last among them, in order."""
    return [records[i] for i in sorted({*np.linspace(0, len(records) - 1, most).astype(int)})]


def _choices(records: Sequence[StepRecord], shown: Sequence[StepRecord], n: int, gates: list[str], experts: list[str]) -> str:
    """Of a pool of experts: what each task chose, in some records; what samples used, over all records; what tasks share."""
    wide, maps = len(experts) > 24, []
    for record in shown:
        title = f"choices, step {record.step:,}"
        load = plots.heat_map(title, record.figures[f"{n}.load"], gates, experts)
        maps.append(picture(load, f"share of samples for which a task chose an expert at step {record.step}", scroll=wide))
    some = _spread(records, _STEPS_SHOWN)
    use = np.stack([r.figures[f"{n}.use"] for r in some])
    over_time = plots.heat_map("use over steps", use, [f"{r.step:,}" for r in some], experts)
    parts = [picture(over_time, "share of samples that use each expert over steps", scroll=wide)]
    if len(gates) > 1:
        overlap = plots.heat_map("overlap of choices", records[-1].figures[f"{n}.overlap"], gates, gates)
        parts.append(picture(overlap, "share of two tasks' choices that are the same experts"))
    told = "Experts of the pool that gates choose: share of samples, by task and by step. 0: never chosen."
    return f"<p>{told}</p>" + grid(maps, "pair") + grid(parts)


def _gradients(run: RunRecord) -> str:
    if run.names is None or not run.records:
        return ""
    names: Names = run.names
    late = [r.figures for r in run.records[len(run.records) // 2 :]]
    norms = {}
    for kind in _KINDS:
        squares = [
            np.mean([np.square(f[f"{n}.task_gradient"][:, [k == kind for k in p.kinds]]).sum(1) for f in late], 0)
            for n, p in enumerate(names.parts)
            if kind in p.kinds
        ]
        if squares:
            norms[kind] = np.sqrt(np.sum(squares, 0))
    parts = []
    if norms:
        bars = plots.grouped_bars("norm of tasks' gradients", names.tasks, norms, "norm, by kind of expert that it trains")
        parts.append(picture(bars, "norm of each task's gradient by kind of expert"))
    titles = (("shared_cosine", "cosine, on shared experts"), ("input_cosine", "cosine, on the feature vector"))
    for figure, title in titles:
        mean: Floats = np.mean([f[figure] for f in late], 0)
        if len(names.tasks) > 1 and mean.any():
            parts.append(picture(plots.signed_map(title, mean, names.tasks), f"{title} between tasks"))
    return grid(parts) if parts else ""


def _features(run: RunRecord) -> str:
    if run.names is None or not run.records:
        return ""
    latest, parts = run.records[-1].figures, []
    scaled = [(f"{n}.scale", p.inputs) for n, p in enumerate(run.names.parts) if p.reads_features and p.inputs]
    for key, inputs in [*scaled, *((f"{name}.scale", [name]) for name in run.names.scalers)]:
        for g, name in enumerate(inputs):
            shown = plots.factors(name, run.names.features, latest[key][g])
            away = float(latest[f"{key}_distance"][g])
            parts.append(picture(shown, f"factors of features for {name}", f"Mean distance from 1: {away:.3f}"))
    return grid(parts) if parts else ""


def _tables(run: RunRecord) -> str:
    if not run.tables:
        return ""
    latest = run.tables[-1]
    rows = [
        [t["table"], f"{t['rows']:,}", f"{t['untouched']:.1%}", f"{t['size']:.3g}", f"{t['growth']:.1f}", f"{t['largest']:.3g}"]
        for t in latest["tables"]
    ]
    head = ["table", "rows", "never looked up", "size of the others", "growth", "largest entry"]
    steps = [line["step"] for line in run.tables]
    growth = [(t["table"], steps, [_of(line, t["table"]) for line in run.tables]) for t in latest["tables"]]
    curve = picture(plots.lines("growth", growth, low=0), "growth of embedding tables over steps")
    return grid([table(head, rows), curve], "pair")


def _of(line: dict, name: str) -> float:
    return next((t["growth"] for t in line["tables"] if t["table"] == name), float("nan"))


def _layer(part: PartNames, n: int) -> str:
    prefix, slash, _ = part.experts[0].partition("/")
    return prefix if slash else f"Layer {n}"


def _short(names: Sequence[str]) -> list[str]:
    """Names without the layer, which the heading gives."""
    return [name.rpartition("/")[2] for name in names]
