"""How the rows of a preparation differ from those of its base: a section of a prepared data's page."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from home_dist.insight.page import Cell, PageSection, picture, table
from home_dist.insight.svg import NAMED, pyplot, uri
from home_dist.prepare.drift import COVERAGE_WARNING, KNOWN_WARNING, PSI_USUAL, PSI_WARNING, RATE_WARNING

_MOST = 25  # statistics in the picture


def drift_section(report: Mapping[str, Any]) -> PageSection:
    """report: of a preparation with a base."""
    base = report["base"]
    warnings = "".join(f'<div class="finding">{escape(text)}.</div>' for text in base["warnings"])
    quiet = '<div class="none">Nothing differs by more than its threshold.</div>'
    return PageSection(
        "drift",
        "Drift",
        f"The training part beside that of {base['folder']}, whose vocabularies, boundaries and scales were taken. Red: an id "
        f"known in {KNOWN_WARNING:.0%} fewer of the rows, a statistic missing in {COVERAGE_WARNING:.0%} more or fewer, "
        f"population stability above {PSI_WARNING}, a label's rate {RATE_WARNING:g} times another beyond chance.",
        (warnings or quiet) + _ids(base, report) + _statistics(base) + _labels(base),
    )


def _ids(base: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    lines: list[list[str | Cell]] = []
    for name, entry in sorted(base["ids"].items(), key=lambda item: item[1]["now"] - item[1]["before"]):
        grown = report.get("vocabularies_grown", {}).get(name, {"new": 0, "without_room": 0})
        fallen = entry["before"] - entry["now"] > KNOWN_WARNING
        known = Cell(f"{entry['now']:.1%}", kind="worse" if fallen else "")
        left = Cell(f"{grown['without_room']:,}", kind="worse" if grown["without_room"] else "")
        lines.append([name, f"{entry['before']:.1%}", known, f"{grown['new']:,}", left])
    head = ["id", "known there", "known to the base's vocabulary now", "new values", "without room"]
    return "<h3>Ids</h3>" + table(head, lines)


def _statistics(base: Mapping[str, Any]) -> str:
    def order(item: tuple[str, Mapping[str, Any]]) -> float:
        return -(item[1]["psi"] or 0.0)

    lines: list[list[str | Cell]] = []
    for name, entry in sorted(base["statistics"].items(), key=order):
        psi, missing = entry["psi"], [1 - entry["before"], 1 - entry["now"]]
        moved = abs(missing[0] - missing[1]) > COVERAGE_WARNING
        much = (psi or 0) > PSI_WARNING and not entry["grows"]
        grows = "all times" if entry["grows"] else ""
        stability = Cell("-" if psi is None else f"{psi:.3f}", grows, kind="worse" if much else "")
        lines.append([name, stability, f"{missing[0]:.1%}", Cell(f"{missing[1]:.1%}", kind="worse" if moved else "")])
    head = ["statistic", "population stability", "missing there", "missing now"]
    told = [(n, e["psi"]) for n, e in sorted(base["statistics"].items(), key=order) if e["psi"] is not None][:_MOST]
    return "<h3>Statistics</h3>" + (_bars(told) if told else "") + table(head, lines)


def _bars(told: Sequence[tuple[str, float]]) -> str:
    figure, axes = pyplot.subplots(figsize=(6.2, 0.9 + 0.19 * len(told)))
    colours = [NAMED["orange"] if psi > PSI_WARNING else NAMED["blue"] for _, psi in told]
    axes.barh([name for name, _ in told], [psi for _, psi in told], color=colours, height=0.7)
    for limit in (PSI_USUAL, PSI_WARNING):
        axes.axvline(limit, color=NAMED["grey"], linewidth=1, linestyle="--")
    axes.invert_yaxis()
    axes.set_xlim(0, max(PSI_WARNING * 1.2, *(psi for _, psi in told)))
    axes.grid(axis="y", visible=False)
    axes.set_title("population stability")
    return picture(uri(figure), "population stability by statistic", f"Dashed: {PSI_USUAL} and {PSI_WARNING}.")


def _labels(base: Mapping[str, Any]) -> str:
    lines: list[list[str | Cell]] = []
    for name, entry in base["labels"].items():
        before, now, sure = entry["before"], entry["now"], entry["deviations"]
        rates = ["-" if rate is None else f"{rate:.3%}" for rate in (before, now)]
        ratio = now / before if before and now is not None else math.nan
        jumped = entry["warns"]
        shown = ["-" if math.isnan(ratio) else f"{ratio:.2f}", "-" if sure is None else f"{sure:+.1f}"]
        lines.append([name, rates[0], Cell(rates[1], kind="worse" if jumped else ""), *shown])
    return "<h3>Labels</h3>" + table(["label", "rate there", "rate now", "ratio", "deviations of chance"], lines)
