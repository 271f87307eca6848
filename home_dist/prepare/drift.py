"""How the rows of a preparation differ from those of the one that its numbers come from.

Population stability (PSI): over a statistic's buckets, and one for missing values, sum of (now - before) * log(now / before) of
the shares of rows. Below 0.1 is usual, above 0.25 calls for a look.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from home_dist.errors import DataError

PSI_USUAL, PSI_WARNING = 0.1, 0.25
KNOWN_WARNING = 0.1
"""Share of rows by which an id is known more rarely than before."""
RATE_WARNING = 1.5
"""Ratio of a label's rates, in either direction, beyond chance."""
COVERAGE_WARNING = 0.1
"""Share of rows by which a statistic is missing more often, or more rarely."""
_LEAST = 1e-4  # share that an empty bucket counts as
_SURE = 4.0  # standard deviations beyond which a rate's change is no chance


def drift(before: Mapping[str, Any], now: Mapping[str, Any], folder: str, growing: Collection[str] = ()) -> dict[str, Any]:
    """Compares two reports by their training parts. folder: where the first is of; growing: statistics that are no warning, as
    they grow with the log's age. What the first lacks is left out. Raises DataError for a first one that is no report.

    now: with "known_to_base", by id the share of rows whose value was in the base's vocabulary, before it grew.
    """
    try:
        compared: dict[str, Any] = {
            "folder": folder,
            "ids": _ids(before, now),
            "statistics": _statistics(before, now, growing),
            "labels": _labels(before, now),
        }
    except (AttributeError, KeyError, TypeError) as error:
        problem = f"{folder}/report.json: is no report of a preparation ({error!r}). Restore it, or remove it."
        raise DataError(problem) from None
    return compared | {"warnings": list(_warnings(compared))}


def _covered(report: Mapping[str, Any]) -> dict[str, float]:
    """Share of the training rows that have each feature."""
    return {name: splits["train"] for name, splits in report.get("coverage", {}).items() if "train" in splits}


def _ids(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    old = _covered(before)
    return {n: {"before": old[n], "now": share} for n, share in now["known_to_base"].items() if n in old}


def _statistics(before: Mapping[str, Any], now: Mapping[str, Any], growing: Collection[str]) -> dict[str, Any]:
    old, new = _covered(before), _covered(now)
    compared = {}
    for name in new:
        if name not in old or name in now["vocabularies"]:
            continue
        held = [report.get("histograms", {}).get(name, {}) for report in (before, now)]
        same = all("buckets" in h for h in held) and held[0]["boundaries"] == held[1]["boundaries"]
        shares = (
            [_shares(h["buckets"], present) for h, present in zip(held, (old[name], new[name]), strict=True)] if same else []
        )
        compared[name] = {
            "before": old[name],
            "now": new[name],
            "psi": psi(*shares) if same else None,
            "grows": name in growing,
        }
    return compared


def _labels(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    compared = {}
    for name in now["splits"]["train"]["positives"]:
        if name not in before.get("splits", {}).get("train", {}).get("positives", {}):
            continue
        there, here = ((_positives(r, name), _known(r, name)) for r in (before, now))
        rates = [positives / known if known else None for positives, known in (there, here)]
        sure = _deviations(*there, *here)
        compared[name] = {"before": rates[0], "now": rates[1], "deviations": sure, "warns": _jumped(rates, sure)}
    return compared


def _jumped(rates: Sequence[float | None], deviations: float | None) -> bool:
    known = [rate for rate in rates if rate is not None]
    return len(known) == 2 and abs(deviations or 0) >= _SURE and max(known) > RATE_WARNING * min(known)


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
            had = f"{entry['before']:.1%} had one there"
            yield f"{entry['now']:.1%} of the rows have a value of {name} that {folder} knew, where {had}"
    for name, entry in compared["statistics"].items():
        if abs(entry["before"] - entry["now"]) > COVERAGE_WARNING:
            gone = 1 - entry["now"]
            yield f"{name} is missing in {gone:.1%} of the rows, where it was in {1 - entry['before']:.1%} in {folder}"
        elif entry["psi"] is not None and entry["psi"] > PSI_WARNING and not entry["grows"]:
            yield (
                f"{name} has other values than in {folder}: population stability {entry['psi']:.2f}, of which {PSI_WARNING} is "
                f"much. --anew {name} fits its boundaries again"
            )
    for name, entry in compared["labels"].items():
        if entry["warns"]:
            yield f"label {name} happens in {entry['now']:.3%} of the rows, where it did in {entry['before']:.3%} in {folder}"
