"""How the rows of a preparation differ from those of the one that its numbers come from.

Population stability (PSI): over a statistic's buckets, and one for missing values, sum of (now - before) * log(now / before) of
the shares of rows. Below 0.1 is usual, above 0.25 calls for a look.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

PSI_WARNING = 0.25
KNOWN_WARNING = 0.1
"""Share of rows by which an id is known more rarely than before."""
RATE_WARNING = 1.5
"""Ratio of a label's rates, in either direction, beyond chance."""
COVERAGE_WARNING = 0.1
"""Share of rows by which a statistic is missing more often, or more rarely."""
_LEAST = 1e-4  # share that an empty bucket counts as
_SURE = 4.0  # standard deviations beyond which a rate's change is no chance


def drift(before: Mapping[str, Any], now: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """Compares two reports by their training parts. folder: where the first is of. What it lacks is left out."""
    old, new = ({n: v["train"] for n, v in r.get("coverage", {}).items()} for r in (before, now))
    ids, statistics = {}, {}
    for name in new:
        if name in old:
            entry = {"before": old[name], "now": new[name]}
            if name in now["vocabularies"]:
                ids[name] = entry
                continue
            held = [r.get("histograms", {}).get(name, {}).get("buckets") for r in (before, now)]
            same = held[0] and held[1] and before["histograms"][name]["boundaries"] == now["histograms"][name]["boundaries"]
            statistics[name] = entry | {"psi": psi(_shares(held[0], old[name]), _shares(held[1], new[name])) if same else None}
    labels = {}
    for name, positives in now["splits"]["train"]["positives"].items():
        if name in before.get("splits", {}).get("train", {}).get("positives", {}):
            there, here = ((_positives(r, name), _known(r, name)) for r in (before, now))
            labels[name] = {
                "before": there[0] / there[1] if there[1] else None,
                "now": positives / here[1] if here[1] else None,
            }
            labels[name]["deviations"] = _deviations(*there, *here)
    compared = {"folder": folder, "ids": ids, "statistics": statistics, "labels": labels}
    return compared | {"warnings": list(_warnings(compared))}


def psi(before: Sequence[float], now: Sequence[float]) -> float:
    """Population stability index of two lists of shares, of which each sums to 1."""
    pairs = ((max(a, _LEAST), max(b, _LEAST)) for a, b in zip(before, now, strict=True))
    return sum((b - a) * math.log(b / a) for a, b in pairs)


def _shares(buckets: Sequence[int], present: float) -> list[float]:
    """Shares of rows: missing, then by bucket. present: share of rows that have the statistic."""
    total = sum(buckets)
    return [1 - present, *(present * n / total for n in buckets)]


def _positives(report: Mapping[str, Any], label: str) -> int:
    return int(report["splits"]["train"]["positives"][label])


def _known(report: Mapping[str, Any], label: str) -> int:
    split = report["splits"]["train"]
    return int(split["rows"] - split["unknown"][label])


def _deviations(there: int, of_there: int, here: int, of_here: int) -> float | None:
    """Difference of two rates in standard deviations of chance."""
    if not of_there or not of_here:
        return None
    both = (there + here) / (of_there + of_here)
    deviation = math.sqrt(both * (1 - both) * (1 / of_there + 1 / of_here))
    return (here / of_here - there / of_there) / deviation if deviation else 0.0


def _warnings(compared: Mapping[str, Any]) -> Iterator[str]:
    folder = compared["folder"]
    for name, entry in compared["ids"].items():
        if entry["before"] - entry["now"] > KNOWN_WARNING:
            yield f"{entry['now']:.1%} of the rows have a known {name}, where {entry['before']:.1%} had one in {folder}"
    for name, entry in compared["statistics"].items():
        if abs(entry["before"] - entry["now"]) > COVERAGE_WARNING:
            gone = 1 - entry["now"]
            yield f"{name} is missing in {gone:.1%} of the rows, where it was in {1 - entry['before']:.1%} in {folder}"
        elif entry["psi"] is not None and entry["psi"] > PSI_WARNING:
            yield (
                f"{name} has other values than in {folder}: population stability {entry['psi']:.2f}, of which {PSI_WARNING} is "
                f"much. --anew {name} fits its boundaries again"
            )
    for name, entry in compared["labels"].items():
        before, now = entry["before"], entry["now"]
        if before is None or now is None or abs(entry["deviations"] or 0) < _SURE:
            continue
        if max(before, now) > RATE_WARNING * min(before, now):
            yield f"label {name} happens in {now:.3%} of the rows, where it did in {before:.3%} in {folder}"
