"""Section of a preparation's page: how its training rows differ from those of the base, from which its numbers come."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from home_dist.insight.page import Cell, PageSection, grid, picture, table
from home_dist.insight.shares import interval
from home_dist.insight.svg import NAMED, pyplot, uri
from home_dist.prepare.drift import KNOWN_TO_BASE_WARNING, KNOWN_WARNING, RATE_WARNING
from home_dist.prepare.label_drift import MEAN_WARNING, MISSING_WARNING, PSI_USUAL, PSI_WARNING

_BARS = 20  # statistics in the picture of PSI at most
_COMPARED = 6  # statistics with a picture of their buckets at most
_LONGEST = 1.0  # PSI at which a bar ends, so that the thresholds stay apart
_TICKS = 6
_NAME = 28  # letters of a name in a picture


def drift_section(report: Mapping[str, Any]) -> PageSection:
    """report: of a preparation that has a base."""
    base = report["base"]
    rows = f" ({base['days'][0]} to {base['days'][-1]}, {base['rows']:,} rows)" if base["days"] else ""
    about = (
        f"Training rows of these days against those of {base['folder']}{rows}, from which the numbers are taken. The worst "
        f"come first. Red: a threshold is crossed, and by more than chance explains."
    )
    ids, statistics, labels = (base[kind] for kind in ("ids", "statistics", "labels"))
    numbers, classes = base.get("numbers", {}), base.get("classes", {})
    parts = [_warnings(base["warnings"], bool(ids or statistics or labels or numbers or classes))]
    if ids:
        parts += ["<h3>Ids</h3>", _ids(ids, report)]
    if statistics:
        parts += ["<h3>Statistics</h3>", _statistics(statistics), _pictures(statistics, report["histograms"])]
    if labels:
        parts += ["<h3>Labels</h3>", _labels(labels)]
    if numbers:
        parts += ["<h3>Labels that are numbers</h3>", _numbers(numbers)]
    if classes:
        parts += ["<h3>Labels that are classes</h3>", _classes(classes)]
    return PageSection("drift", "Drift", about, "".join(parts))


def _warnings(warnings: Sequence[str], is_measured: bool) -> str:
    if not warnings:
        return '<div class="none">No threshold is crossed.</div>' if is_measured else ""
    return "".join(f'<div class="finding">{escape(w)}</div>' for w in warnings)


def _ids(ids: Mapping[str, Mapping[str, Any]], report: Mapping[str, Any]) -> str:
    lines: list[list[str | Cell]] = []
    for name, entry in _worst_first(ids, lambda e: e["before"] - e["now"]):
        grown = report.get("vocabularies_grown", {}).get(name, {"new": 0, "without_room": 0})
        lines.append(
            [
                name,
                f"{entry['before']:.1%}",
                _marked(entry, "known", f"{entry['now']:.1%}"),
                "-" if entry["known_to_base"] is None else _marked(entry, "known_to_base", f"{entry['known_to_base']:.1%}"),
                f"{grown['new']:,}",
                f"{grown['without_room']:,}",
                f"{report['vocabularies'][name] - 1:,}",
            ]
        )
    head = ["id", "known before", "known now", "known to the base", "values added", "without room", "values now"]
    return table(head, lines) + _note(
        f"Shares of rows with a value that the vocabulary holds: before, rows and vocabulary are the base's; now, rows are of "
        f"these days and the vocabulary has grown by them; known to the base are those whose value it held already. Red: known "
        f"more rarely by {KNOWN_WARNING:.0%} of the rows; or known to the base less than {KNOWN_TO_BASE_WARNING:g} times as "
        f"often as before. Values without room are frequent enough, but the table is full."
    )


def _statistics(statistics: Mapping[str, Mapping[str, Any]]) -> str:
    lines: list[list[str | Cell]] = []
    for name, entry in _worst_first(statistics, lambda e: -1.0 if e["psi"] is None else e["psi"]):
        lines.append(
            [
                name,
                "-" if entry["psi"] is None else _marked(entry, "psi", f"{entry['psi']:.3f}"),
                f"{1 - entry['before']:.1%}",
                _marked(entry, "missing", f"{1 - entry['now']:.1%}"),
            ]
        )
    return table(["statistic", "PSI", "missing before", "missing now"], lines) + _note(
        f"PSI, the population stability index, compares the shares of buckets among the values that are there: below "
        f"{PSI_USUAL:g} is usual, above {PSI_WARNING:g} much. It is not known (-) if the boundaries were fitted anew, or if "
        f"either side has no values. Red: PSI above {PSI_WARNING:g}; or missing in more or fewer rows by {MISSING_WARNING:.0%} "
        f"of them."
    )


def _pictures(statistics: Mapping[str, Mapping[str, Any]], histograms: Mapping[str, Mapping[str, Any]]) -> str:
    measured = {n: e for n, e in statistics.items() if e["psi"] is not None}
    worst = sorted(measured.items(), key=lambda item: -item[1]["psi"])
    if not worst:
        return ""
    compared = [_buckets(n, e, histograms[n]) for n, e in worst[:_COMPARED] if sum(map(bool, e["buckets_before"])) > 1]
    caption = (
        f"Dashed: {PSI_USUAL:g} and {PSI_WARNING:g}. Orange: above {PSI_WARNING:g}, by more than chance explains. Bars end at "
        f"{_LONGEST:g}."
    )
    bars = picture(uri(_bars(worst[:_BARS])), "population stability of statistics", caption)
    if not compared:
        return bars
    about = _note("Share of the values in each bucket, with the boundaries between them. Grey: before; blue: now.")
    return f"{bars}<h3>Buckets of the statistics with the largest PSI</h3>{about}{grid(compared)}"


def _bars(worst: Sequence[tuple[str, Mapping[str, Any]]]) -> Any:
    figure, axes = pyplot.subplots(figsize=(5.4, 0.6 + 0.19 * len(worst)))
    values = [e["psi"] for _, e in worst]
    colours = [NAMED["orange" if "psi" in e["crossed"] else "blue"] for _, e in worst]
    end = min(_LONGEST, max(values[0], 1.2 * PSI_WARNING))
    axes.barh(range(len(worst)), [min(v, end) for v in values], color=colours, height=0.65)
    for place, value in enumerate(values):
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # over the dashed lines
        axes.text(min(value, end) + end / 80, place, f"{value:.3f}", va="center", color="#4b5563", fontsize=7, bbox=box)
    for threshold in (PSI_USUAL, PSI_WARNING):
        axes.axvline(threshold, color="#6b7280", linewidth=0.8, linestyle="--")
    axes.set_yticks(range(len(worst)), [_short(n) for n, _ in worst])
    axes.set_ylim(len(worst) - 0.4, -0.6)
    axes.set_xlim(0, end * 1.12)
    axes.grid(axis="y", visible=False)
    axes.set_title("population stability (PSI)")
    return figure


def _buckets(name: str, entry: Mapping[str, Any], histogram: Mapping[str, Any]) -> str:
    boundaries = histogram["boundaries"]
    figure, axes = pyplot.subplots(figsize=(3.6, 2.1))
    places = np.arange(len(boundaries) + 1)
    for shift, label, colour, held in (
        (-0.2, "before", "grey", entry["buckets_before"]),
        (0.2, "now", "blue", histogram["buckets"]),
    ):
        shares = np.asarray(held) / max(1, sum(held))
        axes.bar(places + shift, shares, width=0.4, color=NAMED[colour], label=label, linewidth=0)
    step = max(1, -(-len(boundaries) // _TICKS))
    chosen = range(0, len(boundaries), step)
    axes.set_xticks([p + 0.5 for p in chosen], [f"{boundaries[p]:.3g}" for p in chosen])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(axis="x", visible=False)
    axes.set_title(f"{_short(name)}: PSI {entry['psi']:.3f}")
    return picture(uri(figure), f"buckets of {name} before and now")


def _labels(labels: Mapping[str, Mapping[str, Any]]) -> str:
    lines: list[list[str | Cell]] = []
    for name, entry in _worst_first(labels, lambda e: abs(e["deviations"] or 0.0)):
        lines.append(
            [
                name,
                _rate(entry["before"], entry["known_rows_before"]),
                _rate(entry["now"], entry["known_rows"], "worse" if "rate" in entry["crossed"] else ""),
                f"{entry['missing_before']:.1%}",
                _marked(entry, "missing", f"{entry['missing']:.1%}"),
            ]
        )
    return table(["label", "rate before", "rate now", "unknown before", "unknown now"], lines) + _note(
        f"Rates among rows that know the label, with 95 % intervals. Red: the rate of positives or of negatives has changed by "
        f"a factor of {RATE_WARNING:g}; or the label is unknown in more or fewer rows by {MISSING_WARNING:.0%} of them."
    )


def _numbers(numbers: Mapping[str, Mapping[str, Any]]) -> str:
    lines: list[list[str | Cell]] = []
    for name, entry in _worst_first(numbers, lambda e: abs(e["shift"] or 0.0)):
        lines.append(
            [
                name,
                "-" if entry["before"] is None else f"{entry['before']:.4g}",
                "-" if entry["now"] is None else _marked(entry, "mean", f"{entry['now']:.4g}"),
                "-" if entry["shift"] is None else f"{entry['shift']:+.2f}",
                *_psi_and_unknown(entry),
            ]
        )
    return table(["label", "mean before", "mean now", "change", "PSI", "unknown before", "unknown now"], lines) + _note(
        f"The change is in standard deviations of before. PSI is of the values as the base's thresholds cut them. Red: changed "
        f"by {MEAN_WARNING:g} deviations; PSI above {PSI_WARNING:g}; or unknown in more or fewer rows by {MISSING_WARNING:.0%} "
        f"of them."
    )


def _classes(classes: Mapping[str, Mapping[str, Any]]) -> str:
    lines: list[list[str | Cell]] = []
    for name, entry in _worst_first(classes, lambda e: e["psi"] or 0.0):
        change = "-"
        if entry["psi"] is not None:
            before, now = (np.asarray(c) / sum(c) for c in (entry["buckets_before"], entry["counts"]))
            most = int(np.abs(now - before).argmax())
            change = f"{entry['names'][most]}: {before[most]:.1%} to {now[most]:.1%}"
        lines.append([name, change, *_psi_and_unknown(entry)])
    return table(["label", "largest change", "PSI", "unknown before", "unknown now"], lines) + _note(
        f"PSI is of the classes' shares. Red: above {PSI_WARNING:g}; or unknown in more or fewer rows by {MISSING_WARNING:.0%} "
        f"of them."
    )


def _psi_and_unknown(entry: Mapping[str, Any]) -> list[str | Cell]:
    return [
        "-" if entry["psi"] is None else _marked(entry, "psi", f"{entry['psi']:.3f}"),
        f"{entry['missing_before']:.1%}",
        _marked(entry, "missing", f"{entry['missing']:.1%}"),
    ]


def _rate(rate: float | None, known: int, kind: str = "") -> str | Cell:
    if rate is None:
        return "-"
    low, high = interval(round(rate * known), known)
    return Cell(f"{rate:.3%}", f"{low:.3%} to {high:.3%}", kind)


def _worst_first(entries: Mapping[str, Mapping[str, Any]], badness: Any) -> list[tuple[str, Mapping[str, Any]]]:
    return sorted(entries.items(), key=lambda item: (not item[1]["crossed"], -badness(item[1])))


def _marked(entry: Mapping[str, Any], threshold: str, text: str) -> Cell:
    return Cell(text, kind="worse" if threshold in entry["crossed"] else "")


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _short(name: str) -> str:
    return name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"
