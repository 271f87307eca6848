"""The page of a preparation, made from its report: rows read, kept and dropped; labels by day; coverage of features;
histograms of statistics; drift against the base, if it has one. One file, which loads nothing from the network."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from home_dist.files.whole import write_whole
from home_dist.insight.day_axis import COLOURS, NAMES, day_ticks, places, side_by_side
from home_dist.insight.drift_page import drift_section
from home_dist.insight.labels_page import classes_part, numbers_part
from home_dist.insight.page import Cell, PageSection, grid, page, picture, table
from home_dist.insight.shares import interval
from home_dist.insight.svg import pyplot, uri

_FILES = 10  # file names listed at most
_FALLEN = 0.1
"""A feature's coverage is marked if it falls by more than this share of rows from training to a later split."""


def write_page(report: Mapping[str, Any], path: Path) -> None:
    """report: the content of report.json, written by `home-dist prepare`. It may lack any split."""
    base = report.get("base")
    facts = [
        ("rows in", f"{report['rows_in']:,}"),
        ("rows out", f"{report['rows_out']:,}"),
        ("labels", str(len(_label_names(report)) + len(report.get("numbers", ())) + len(report.get("classes", ())))),
        ("ids", str(len(report["vocabularies"]))),
        ("statistics", str(len(report["histograms"]))),
    ]
    if base is not None:
        facts.append(("warnings of drift", str(len(base["warnings"]))))
    days = [day for split in report["splits"].values() for day in split["days"]]
    numbers = "" if base is None else f", with the numbers of {base['folder']}"
    sections = [_rows(report), _labels(report), _coverage(report), _statistics(report)]
    write_whole(
        path,
        page(
            report["log"],
            f"prepared data, {min(days, default='')} to {max(days, default='')}{numbers}",
            facts,
            sections if base is None else [sections[0], drift_section(report), *sections[1:]],
        ),
    )


def _label_names(report: Mapping[str, Any]) -> list[str]:
    return list(next(iter(report["splits"].values()), {"positives": {}})["positives"])


def _rows(report: Mapping[str, Any]) -> PageSection:
    lines = [["read", f"{report['rows_in']:,}", ""]]
    dropped = report["rows_before_the_training_days"]
    lines.append(["dropped", f"{dropped:,}", "older than the training days; counted in what was known before later rows"])
    nowhere = report.get("rows_in_no_part", dropped) - dropped
    lines += (
        [["in no part", f"{nowhere:,}", "the split names none for them; counted in what was known before"]] if nowhere else []
    )
    early = report.get("files_before_the_training_days", [])[:_FILES]
    lines += [[f"dropped of {f['file']}", f"{f['rows']:,}", f"{f['first']} to {f['last']}"] for f in early]
    absent = report.get("files_without_a_column", {}).items()
    lines += [[f"files without {c}", f"{len(files):,}", f"{', '.join(files[:_FILES])}: no value there"] for c, files in absent]
    repeated = report.get("repeated_rows", {"rows": 0})
    if repeated["rows"]:
        where = f"of {repeated['users']:,} users, like an earlier row in all that is read of them"
        lines.append(["repeated", f"{repeated['rows']:,}", f"{where}; {'left out' if repeated['merged'] else 'kept'}"])
    for name, split in report["splits"].items():
        begin, end = split["days"]
        lines.append([name, f"{split['rows']:,}", f"{begin} to {end}, {split['users']:,} users"])
    for name, rows in report["rows_without_a_row_in"].items():
        share = rows / report["rows_in"]
        lines.append([f"without a row in {name}", f"{rows:,}", f"{share:.1%}: its columns are missing there"])
    days = report["days"]
    names, middles = places(days)
    below = [0] * len(names)
    bottoms = []
    for day, place in zip(days, middles, strict=True):  # a day has several parts if users are held out
        bottoms.append(below[place])
        below[place] += day["rows"]
    figure, axes = pyplot.subplots(figsize=(5.4, 2.3))
    colours = [COLOURS[d["split"]] for d in days]
    axes.bar(middles, [d["rows"] for d in days], bottom=bottoms, color=colours, width=0.8)
    day_ticks(axes, names)
    axes.set_title("rows by day")
    return PageSection(
        "rows",
        "Rows",
        f"What was read and what became of it. In pictures, training days are {NAMES['train']}, validation days "
        f"{NAMES['validation']}, test days {NAMES['test']}, and older ones {NAMES[None]}.",
        table(["", "rows", ""], lines) + picture(uri(figure), "rows by day"),
    )


def _labels(report: Mapping[str, Any]) -> PageSection:
    lines: list[list[str | Cell]] = []
    for name in _label_names(report):
        for number, (split_name, split) in enumerate(report["splits"].items()):
            known = split["rows"] - split["unknown"][name]
            happened = split["positives"][name]
            low, high = interval(happened, known)
            rate = Cell(f"{happened / known:.3%}", f"{low:.3%} to {high:.3%}") if known else "-"
            unknown = f"{split['unknown'][name] / split['rows']:.1%}"
            lines.append(["" if number else name, split_name, rate, f"{happened:,}", unknown])
    head = ["label", "split", "rate", "positives", "unknown"]
    pictures = [_rate_by_day(name, report["days"]) for name in _label_names(report)]
    return PageSection(
        "labels",
        "Labels",
        "Share of positives among rows where the label is known, with 95 % intervals. A rate that jumps at a day is a change "
        "of the product, of logging, or of who was logged.",
        (table(head, lines) + grid(pictures) if lines else "") + numbers_part(report) + classes_part(report),
    )


def _rate_by_day(name: str, days: Sequence[Mapping[str, Any]]) -> str:
    figure, axes = pyplot.subplots(figsize=(3.6, 2.1))
    names, middles = places(days)
    for day, place in zip(days, side_by_side(middles), strict=True):
        known, happened = day["known"][name], day["happened"][name]
        if known:
            low, high = interval(happened, known)
            colour = COLOURS[day["split"]]
            axes.plot([place, place], [low, high], color=colour, linewidth=1)
            axes.plot(place, happened / known, "o", color=colour, markersize=3)
    axes.set_ylim(bottom=0)
    day_ticks(axes, names)
    axes.set_title(f"{name}: rate by day")
    return picture(uri(figure), f"rate of {name} by day")


def _coverage(report: Mapping[str, Any]) -> PageSection:
    lines: list[list[str | Cell]] = []
    for name, shares in report["coverage"].items():
        line: list[str | Cell] = [name]
        for split, share in shares.items():
            fallen = split != "train" and shares.get("train", share) - share > _FALLEN
            line.append(Cell(f"{share:.1%}", kind="worse" if fallen else ""))
        rows = report["vocabularies"].get(name)
        line.append("" if rows is None else f"{rows:,}")
        lines.append(line)
    nothing = report["statistics_that_tell_nothing"]
    base = report.get("base")
    if base is None:
        why, vocabulary = "Left out, as they have one value or none in the training days", "is of the training days"
    else:
        why = f"Without a value in these rows, or left out by {base['folder']}"
        vocabulary = f"is that of {base['folder']}, and may have grown by these days"
    left_out = f"<p>{escape(why)}: {escape(', '.join(nothing))}.</p>"
    return PageSection(
        "coverage",
        "Features",
        f"Share of rows that have the feature; an id counts if it is in the vocabulary, which {vocabulary}. Red: fallen by "
        f"more than a tenth of the rows since the training days. Rows of an id's table: one is for missing values.",
        table(["feature", *report["splits"], "rows of its table"], lines) + (left_out if nothing else ""),
    )


def _statistics(report: Mapping[str, Any]) -> PageSection:
    pictures = []
    for name, histogram in report["histograms"].items():
        edges, rows = histogram["edges"], histogram["rows"]
        figure, axes = pyplot.subplots(figsize=(3.0, 1.9))
        for boundary in histogram["boundaries"]:
            axes.axvline(boundary, color="#d9730d", linewidth=0.5, alpha=0.6)
        axes.bar(edges[:-1], rows, width=np.diff(edges), align="edge", color="#2563a8", linewidth=0)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
        axes.set_title(name)
        alt = f"histogram of {name}, mean {histogram['mean']:g}, standard deviation {histogram['std']:g}"
        pictures.append(picture(uri(figure), alt, f"mean {histogram['mean']:.4g}, standard deviation {histogram['std']:.4g}"))
    base = report.get("base")
    taken = "" if base is None else f" Boundaries, mean and deviation are those of {base['folder']}, unless fitted anew."
    return PageSection(
        "statistics",
        "Statistics",
        f"Rows of the training days by value, missing values left out. Orange: boundaries of buckets.{taken}",
        grid(pictures, "small") + _extremes(report),
    )


def _extremes(report: Mapping[str, Any]) -> str:
    """Table of the log's numbers on all days: extremes, quantiles, infinite values."""
    lines: list[list[str | Cell]] = []
    for name, extremes in report.get("extremes", {}).items():
        if "lowest" in extremes:
            most = Cell(f"{extremes['highest']:g}", kind="worse" if extremes["suspicious"] else "")
            where = f"row {extremes['row']:,} of {extremes['file']}"
            ends = [f"{extremes[quantile]:g}" for quantile in ("half_below", "99.9%_below")]
            lines.append([name, f"{extremes['lowest']:g}", most, where, *ends, f"{extremes['infinite']:,}"])
    head = ["number", "lowest", "highest", "largest in", "half below", "99.9 % below", "infinite"]
    about = "<p>Numbers of the log, of all days. Red: far beyond what almost all values stay below.</p>"
    return about + table(head, lines) if lines else ""
