"""Pictures for a run's report."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from home_dist.insight.store import Floats
from home_dist.insight.sums import EDGES
from home_dist.insight.svg import NAMED, pyplot, uri

RUN_COLOURS = (NAMED["blue"], NAMED["orange"])
"""Of the run, and of the run that it is compared with."""
KIND_NAMES = {"shared": "blue", "group": "green", "task": "orange"}
"""By kind of expert: its colour's name, for captions."""
KIND_COLOURS = {kind: NAMED[name] for kind, name in KIND_NAMES.items()}
_DASHES = ("-", "--", ":", "-.")
LINES = ("#2563a8", "#d9730d", "#2a9d76", "#b5379b", "#8a6d3b", "#6b7280", "#c0392b", "#4f46b8", "#0e8fa3", "#7a9a01")

_SHARES = ("#cbd5e1", "#d9730d", "#2563a8", "#2a9d76", "#8a6d3b", "#b5379b")

Line = tuple[str, Sequence[float], Sequence[float]]
"""Label, steps, values."""


def lines(
    title: str,
    shown: Sequence[Line],
    colours: Sequence[str] = (),
    log: bool = False,
    share: bool = False,
    low: float | None = None,
) -> str:
    """Curves over steps, with a legend for 2 to 10 curves. With a legend, curves of one colour differ in their dashes."""
    legend = 1 < len(shown) <= 10
    figure, axes = pyplot.subplots(figsize=(3.6, 2.3 + (0.17 * -(-len(shown) // 3) if legend else 0)))
    for n, (label, steps, values) in enumerate(shown):
        colour = colours[n] if colours else LINES[n % len(LINES)]
        few = len(steps) < 30
        dashes = _DASHES[list(colours[:n]).count(colour) % len(_DASHES)] if legend else "-"
        axes.plot(steps, values, dashes, label=label, color=colour, linewidth=1.4, marker="." if few else "", markersize=4)
    axes.set_title(title)
    axes.set_xlabel("step")
    everything = [v for _, _, values in shown for v in values]
    if log and min(everything, default=0) > 0 and max(everything) > 10 * min(everything):
        axes.set_yscale("log")
        _plain_ticks(axes.yaxis, everything)
    if share:
        axes.set_ylim(0, 1.02)
    elif low is not None:
        axes.set_ylim(bottom=low)
    if legend:
        figure.legend(loc="outside lower center", fontsize=6.5, ncols=3, handlelength=2.8 if colours else 1.2)
    return uri(figure)


def calibration(title: str, curves: Sequence[tuple[str, dict[str, list[float]]]]) -> str:
    """Share of positives over prediction, per bin, on logarithmic axes; bins without positives are left out."""
    figure, axes = pyplot.subplots(figsize=(2.7, 2.5))
    everything = [x for _, c in curves for name in ("prediction", "rate") for x in c[name] if x > 0]
    if everything:
        low, high = min(everything) / 1.4, min(1.0, max(everything) * 1.4)
        axes.plot([low, high], [low, high], color="#9aa3af", linewidth=1, linestyle="--")
        for n, (label, c) in enumerate(curves):
            points = [(p, r) for p, r in zip(c["prediction"], c["rate"], strict=True) if r > 0]
            axes.plot(*zip(*points, strict=True), "o-", color=RUN_COLOURS[n], markersize=3, linewidth=1, label=label)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        for axis in (axes.xaxis, axes.yaxis):
            _plain_ticks(axis, [low, high])
    axes.set_title(title)
    axes.set_xlabel("predicted")
    axes.set_ylabel("happened")
    if len(curves) > 1:
        axes.legend(fontsize=6.5)
    return uri(figure)


def number_calibration(title: str, curves: Sequence[tuple[str, dict[str, list[float]]]]) -> str:
    """Mean label over mean prediction, per bin; of one curve the labels' deviation too."""
    figure, axes = pyplot.subplots(figsize=(3.6, 2.6))
    everything = [x for _, c in curves for name in ("prediction", "rate") for x in c[name]]
    low, high = min(0.0, min(everything)), max(everything) * 1.05 or 1.0
    axes.plot([low, high], [low, high], color="#9aa3af", linewidth=1, linestyle="--")
    for n, (label, c) in enumerate(curves):
        predicted, happened, deviation = (np.array(c[name]) for name in ("prediction", "rate", "deviation"))
        if len(curves) == 1:
            axes.fill_between(predicted, happened - deviation, happened + deviation, color="#cbd5e1", alpha=0.5, linewidth=0)
        axes.plot(predicted, happened, "o-", color=RUN_COLOURS[n], markersize=3, linewidth=1, label=label)
    axes.set_xlim(low, high)
    axes.set_title(title)
    axes.set_xlabel("predicted")
    axes.set_ylabel("happened")
    if len(curves) > 1:
        axes.legend(fontsize=6.5)
    return uri(figure)


def scatter(title: str, predictions: Floats, labels: Floats) -> str:
    """A point per sample, on axes that are linear near 0 and logarithmic above."""
    figure, axes = pyplot.subplots(figsize=(3.6, 2.6))
    reach = max(1.0, float(max(predictions.max(initial=0), labels.max(initial=0))) * 1.1)
    axes.plot([0, reach], [0, reach], color="#9aa3af", linewidth=1, linestyle="--")
    axes.scatter(predictions, labels, s=3, alpha=0.25, color=RUN_COLOURS[0], linewidths=0, rasterized=True)
    if reach > 10:
        for scale in (axes.set_xscale, axes.set_yscale):
            scale("symlog", linthresh=1)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlim(min(0.0, float(predictions.min(initial=0))), reach)
    axes.set_ylim(min(0.0, float(labels.min(initial=0))), reach)
    axes.set_title(title)
    axes.set_xlabel("predicted")
    axes.set_ylabel("happened")
    return uri(figure)


def distributions(experts: Sequence[str], histograms: Floats) -> str:
    """One row per expert: histogram of its outputs, on axes that are logarithmic on both sides of zero."""
    figure, axes = pyplot.subplots(figsize=(5.4, 0.9 + 0.2 * len(experts)))
    floor = 1e-3
    axes.imshow(np.maximum(histograms, floor), aspect="auto", cmap="Blues", norm=LogNorm(floor, 1), interpolation="nearest")
    axes.set_yticks(range(len(experts)), experts)
    edges = EDGES.tolist()
    marks = [-10, -1, -0.1, -0.01, 0.01, 0.1, 1, 10]
    places = [int(np.argmin([abs(e - m) for e in edges])) + 0.5 for m in marks]
    zero = len(edges) / 2
    axes.set_xticks([*places[:4], zero, *places[4:]], [*(f"{m:g}" for m in marks[:4]), "0", *(f"{m:g}" for m in marks[4:])])
    axes.axvline(zero, color="#9aa3af", linewidth=0.7)
    axes.grid(False)
    axes.set_xlabel("output of a unit (darker: more of them)")
    return uri(figure)


def heat_map(title: str, values: Floats, rows: Sequence[str], columns: Sequence[str], seen: Floats | None = None) -> str:
    """Values from 0 to 1. seen: False for entries that cannot have a value; they are grey."""
    figure, axes = pyplot.subplots(figsize=(1.4 + 0.3 * len(columns), 1.5 + 0.24 * len(rows)))
    shown = values if seen is None else np.where(seen, values, np.nan)
    colours = matplotlib.colormaps["Blues"].with_extremes(bad="#e9ebef")
    axes.imshow(shown, aspect="auto", cmap=colours, norm=Normalize(0, 1))
    axes.set_title(title)
    _names(axes, rows, columns)
    _numbers(axes, shown, 0.55)
    return uri(figure)


def signed_map(title: str, values: Floats, names: Sequence[str]) -> str:
    """Values from -1 to 1, for pairs of `names`."""
    side = 1.4 + 0.3 * len(names)
    figure, axes = pyplot.subplots(figsize=(side + 0.5, side))
    axes.imshow(values, cmap="RdBu_r", norm=Normalize(-1, 1))
    axes.set_title(title)
    _names(axes, names, names)
    _numbers(axes, values, 0.6)
    return uri(figure)


def _plain_ticks(axis: Axis, values: Sequence[float]) -> None:
    """Ticks of a logarithmic axis: few, labelled as plain numbers."""
    decades = np.log10(max(values) / min(values))
    axis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if decades < 1.3 else (1, 3) if decades < 2.2 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _names(axes: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    axes.set_yticks(range(len(rows)), rows, fontsize=7)
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=7)
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)


def _numbers(axes: Axes, values: Floats, dark: float) -> None:
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            colour = "white" if abs(value) > dark else "#374151"
            text = f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 0.995 else f"{value:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=5.5, color=colour)


def stacked_shares(title: str, rows: Sequence[str], parts: dict[str, Floats]) -> str:
    """One horizontal bar per row, of shares by kind of expert that add up to 1."""
    figure, axes = pyplot.subplots(figsize=(3.6, 1.0 + 0.22 * len(rows)))
    left = np.zeros(len(rows))
    for kind, values in parts.items():
        axes.barh(range(len(rows)), values, left=left, color=KIND_COLOURS[kind], label=kind, height=0.7)
        left = left + values
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.grid(axis="y", visible=False)
    axes.set_title(title)
    figure.legend(loc="outside lower center", ncols=3, fontsize=7)
    return uri(figure)


def grouped_bars(title: str, rows: Sequence[str], parts: dict[str, Floats], label: str) -> str:
    """In each row a bar per kind of expert, on a logarithmic axis."""
    figure, axes = pyplot.subplots(figsize=(3.6, 1.1 + 0.32 * len(rows)))
    height = 0.8 / max(1, len(parts))
    for n, (kind, values) in enumerate(parts.items()):
        axes.barh(
            np.arange(len(rows)) + (n - (len(parts) - 1) / 2) * height, values, height, color=KIND_COLOURS[kind], label=kind
        )
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    positive = [float(v) for values in parts.values() for v in values if v > 0]
    if positive:
        axes.set_xscale("log")
        _plain_ticks(axes.xaxis, positive)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(label)
    axes.set_title(title)
    figure.legend(loc="outside lower center", ncols=3, fontsize=7)
    return uri(figure)


def factors(title: str, names: Sequence[str], values: Floats, most: int = 8) -> str:
    """Factors of the `most` features that a gate amplifies most and the `most` that it damps most."""
    order = np.argsort(values)
    chosen = order if len(order) <= 2 * most else np.concatenate([order[:most], order[-most:]])
    figure, axes = pyplot.subplots(figsize=(3.6, 0.9 + 0.17 * len(chosen)))
    shown = values[chosen]
    axes.barh(range(len(chosen)), shown - 1, left=1, color=np.where(shown >= 1, "#2563a8", "#d9730d"), height=0.7)
    axes.axvline(1, color="#6b7280", linewidth=0.8)
    axes.set_yticks(range(len(chosen)), [names[i] for i in chosen], fontsize=6.5)
    reach = max(0.02, float(np.abs(shown - 1).max()) * 1.1)
    axes.set_xlim(1 - reach, 1 + reach)
    axes.grid(axis="y", visible=False)
    axes.set_title(title)
    axes.set_xlabel("mean factor")
    return uri(figure)


def time_shares(title: str, steps: Sequence[float], parts: Mapping[str, Sequence[float]]) -> str:
    figure, axes = pyplot.subplots(figsize=(3.6, 2.3))
    axes.stackplot(steps, *parts.values(), labels=list(parts), colors=_SHARES[: len(parts)])
    axes.set_ylim(0, 1)
    axes.set_xlim(min(steps), max(max(steps), min(steps) + 1))
    axes.set_title(title)
    axes.set_xlabel("step")
    figure.legend(loc="outside lower center", ncols=3, fontsize=7)
    return uri(figure)
