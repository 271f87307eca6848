"""Parts of a preparation's page about labels that are not binary: tables by split, means or shares by day, histograms."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from home_dist.insight.day_axis import COLOURS, day_ticks, places, side_by_side
from home_dist.insight.page import Cell, grid, picture, table
from home_dist.insight.svg import pyplot, uri

_DECILES = (1, 3, 5, 7, 9, 10)
_CLASSES = 12  # classes in a picture at most; the rest is one
_SURE = 1.96


def numbers_part(report: Mapping[str, Any]) -> str:
    """Of labels that are numbers; empty if there are none. Units are in schema.toml."""
    numbers = report.get("numbers", {})
    lines: list[list[str | Cell]] = []
    for name, entry in numbers.items():
        for number, (split, part) in enumerate(entry["splits"].items()):
            rows = part["known"] + part["unknown"]
            start = ["" if number else name, split, f"{part['known']:,}", f"{part['unknown'] / rows:.1%}"]
            if not part["known"]:
                lines.append([*start, *["-"] * (3 + len(_DECILES))])
                continue
            chance = _SURE * part["deviation"] / math.sqrt(part["known"])
            mean = Cell(f"{part['mean']:.5g}", f"{part['mean'] - chance:.4g} to {part['mean'] + chance:.4g}")
            deciles = [f"{part['quantiles'][place]:.4g}" for place in _DECILES]
            lines.append([*start, mean, f"{part['deviation']:.4g}", f"{part['zeros']:.1%}", *deciles])
    if not lines:
        return ""
    head = ["label", "split", "rows", "unknown", "mean", "deviation", "zeros", *(f"{10 * d} %" for d in _DECILES)]
    pictures = [p for name, entry in numbers.items() for p in (_means(name, entry), _histogram(name, entry)) if p]
    about = "<p>Numbers: means with 95 % intervals, and quantiles. Orange: fitted thresholds; values above 99.9 % are last.</p>"
    return "<h3>Labels that are numbers</h3>" + about + table(head, lines) + grid(pictures)


def classes_part(report: Mapping[str, Any]) -> str:
    """Of labels that are classes; empty if there are none."""
    parts = []
    for name, entry in report.get("classes", {}).items():
        lines: list[list[str | Cell]] = []
        for place, label in enumerate(entry["names"]):
            shares = [
                f"{part['counts'][place] / part['known']:.2%}" if part["known"] else "-" for part in entry["splits"].values()
            ]
            lines.append([label, *shares])
        unknown = [f"{part['unknown'] / (part['known'] + part['unknown']):.1%}" for part in entry["splits"].values()]
        lines.append(["unknown", *unknown])
        parts.append(table([name, *entry["splits"]], lines) + grid([p for p in [_shares(name, entry)] if p]))
    return "<h3>Labels that are classes</h3>" + "".join(parts) if parts else ""


def _means(name: str, entry: Mapping[str, Any]) -> str:
    days = entry["days"]
    names, middles = places(days)
    figure, axes = pyplot.subplots(figsize=(3.6, 2.1))
    for day, place in zip(days, side_by_side(middles), strict=True):
        if day["known"]:
            chance = _SURE * day["deviation"] / math.sqrt(day["known"])
            colour = COLOURS[day["split"]]
            axes.plot([place, place], [day["mean"] - chance, day["mean"] + chance], color=colour, linewidth=1)
            axes.plot(place, day["mean"], "o", color=colour, markersize=3)
    if all(day["mean"] >= 0 for day in days if day["known"]):
        axes.set_ylim(bottom=0)
    day_ticks(axes, names)
    axes.set_title(f"{name}: mean by day")
    return picture(uri(figure), f"mean of {name} by day")


def _histogram(name: str, entry: Mapping[str, Any]) -> str:
    histogram = entry["histogram"]
    edges, rows = histogram["edges"], histogram["rows"]
    if not rows:
        return ""
    figure, axes = pyplot.subplots(figsize=(3.6, 2.1))
    for threshold in histogram["thresholds"]:
        if threshold <= edges[-1]:
            axes.axvline(threshold, color="#d9730d", linewidth=0.5, alpha=0.6)
    axes.bar(edges[:-1], rows, width=np.diff(edges), align="edge", color="#2563a8", linewidth=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
    axes.set_title(f"{name}: training rows")
    return picture(uri(figure), f"histogram of {name}")


def _shares(name: str, entry: Mapping[str, Any]) -> str:
    """Shares of the most frequent classes by day, one above the other."""
    days = [day for day in entry["days"] if day["known"]] if "days" in entry else []
    if not days:
        return ""
    counts = np.array([day["counts"] for day in days], float)
    chosen = np.sort(np.argsort(-counts.sum(0), kind="stable")[:_CLASSES])
    shares = counts[:, chosen] / counts.sum(1, keepdims=True)
    names, middles = places(days)
    figure, axes = pyplot.subplots(figsize=(5.4, 2.3))
    below = np.zeros(len(days))
    width = 0.8 if len(set(middles)) == len(middles) else 0.22
    for place, share in zip(chosen.tolist(), shares.T, strict=True):
        axes.bar(side_by_side(middles), share, bottom=below, width=width, label=entry["names"][place], linewidth=0)
        below += share
    day_ticks(axes, names)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    axes.set_title(f"{name}: classes by day")
    return picture(uri(figure), f"classes of {name} by day")
