"""Compares labels that are not binary with the base's: means of numbers, and population stability of numbers and classes.

Numbers are cut by the base's thresholds. A threshold counts as crossed only if chance does not explain the difference.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from home_dist.prepare.stability import SURE, are_other_values, is_sure, psi, shares

PSI_USUAL, PSI_WARNING = 0.1, 0.25
MISSING_WARNING = 0.1
"""Share of rows by which a statistic or a label is missing more often, or more rarely."""
MEAN_WARNING = 0.25
"""Deviations of the base by which the mean of a number differs."""

Entry = dict[str, Any]


def number_drift(before: Mapping[str, Any], now: Mapping[str, Any], to_score: bool) -> Entry | None:
    """Two entries of reports' `numbers`. None if one of them tells of no training rows."""
    there, here = (e["splits"].get("train") for e in (before, now))
    if not there or not here:
        return None
    entry = _missing(there, here, to_score)
    if there["known"] and here["known"]:
        entry |= {"before": there["mean"], "now": here["mean"], "deviation": there["deviation"]}
        change = here["mean"] - there["mean"]
        chance = math.sqrt(there["deviation"] ** 2 / there["known"] + here["deviation"] ** 2 / here["known"])
        entry["shift"] = round(change / there["deviation"], 6) if there["deviation"] else None
        if abs(change) > max(SURE * chance, MEAN_WARNING * there["deviation"]):
            entry["crossed"].append("mean")
    first, second = before["histogram"], now["histogram"]
    if first["thresholds"] == second["thresholds"] and first["thresholds"]:  # else they were fitted anew
        entry |= _psi(first["buckets"], second["buckets"], entry["crossed"])
    return entry


def class_drift(before: Mapping[str, Any], now: Mapping[str, Any], to_score: bool) -> Entry | None:
    """As `number_drift`, of `classes`."""
    there, here = (e["splits"].get("train") for e in (before, now))
    if not there or not here or before["names"] != now["names"]:
        return None
    entry = _missing(there, here, to_score) | {"names": list(now["names"]), "counts": list(here["counts"])}
    return entry | _psi(there["counts"], here["counts"], entry["crossed"])


def _missing(there: Mapping[str, Any], here: Mapping[str, Any], to_score: bool) -> Entry:
    rows_there, rows_here = (part["known"] + part["unknown"] for part in (there, here))
    before, now = there["unknown"] / rows_there, here["unknown"] / rows_here
    is_crossed = not to_score and abs(before - now) > MISSING_WARNING and is_sure(before, rows_there, now, rows_here)
    return {
        "known_rows_before": there["known"],
        "known_rows": here["known"],
        "missing_before": round(before, 6),
        "missing": round(now, 6),
        "before": None,
        "now": None,
        "shift": None,
        "psi": None,
        "crossed": ["missing"] if is_crossed else [],
    }


def _psi(before: list[int], now: list[int], crossed: list[str]) -> Entry:
    if not sum(before) or not sum(now):
        return {}
    value = psi(shares(before), shares(now))
    if value > PSI_WARNING and are_other_values(before, now):
        crossed.append("psi")
    return {"psi": round(value, 6), "buckets_before": list(before)}


def label_warnings(entries: Mapping[str, Entry], folder: str) -> Iterator[str]:
    """entries: of numbers or of classes."""
    for name, entry in entries.items():
        if "missing" in entry["crossed"]:
            before, now = entry["missing_before"], entry["missing"]
            yield f"label {name} is unknown in {now:.1%} of the rows; in {folder}, in {before:.1%}"
        if "mean" in entry["crossed"]:
            by = "" if entry["shift"] is None else f", by {abs(entry['shift']):.2f} deviations"
            yield f"label {name} has the mean {entry['now']:.4g}; in {folder}, {entry['before']:.4g}{by}"
        if "psi" in entry["crossed"]:
            yield (
                f"label {name} has other values than in {folder}, by a population stability of {entry['psi']:.2f}. "
                f"--anew {name} fits its values again"
            )
