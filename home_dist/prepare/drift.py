"""Compares the training rows of a preparation with those of the base, from which its numbers come.

Population stability (PSI) of a statistic: over its buckets, the sum of (now - before) * log(now / before), where both are the
bucket's share of the rows that have the statistic. Missing values are compared apart. A PSI below 0.1 is usual; one above 0.25
calls for a look.

A threshold counts as crossed only if chance does not explain the difference, as a day may have few rows. Rows count as
independent of each other there.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from home_dist.prepare.label_drift import MISSING_WARNING, PSI_WARNING, class_drift, label_warnings, number_drift
from home_dist.prepare.stability import SURE, are_other_values, deviations, is_sure, psi, shares

KNOWN_WARNING = 0.1
"""Share of rows by which an id is known more rarely than before."""
KNOWN_TO_BASE_WARNING = 0.5
"""An id is mostly new if the base knew it in less than this part of the rows in which it was known before."""
RATE_WARNING = 1.5
"""Ratio of a label's rates, or of the rates of its negatives, in either direction."""
_NAMED = 8  # statistics that a warning names at most


@dataclass(frozen=True)
class _Rows:
    """What a report says about its training rows."""

    rows: int
    days: Sequence[str]
    coverage: Mapping[str, float]
    """By feature: share of the rows that have it."""
    histograms: Mapping[str, Mapping[str, Any]]
    labels: Mapping[str, tuple[int, int]]
    """By label: in how many rows it happened, and is known."""

    @staticmethod
    def of(report: Mapping[str, Any]) -> "_Rows | None":
        """None for a report that does not tell of training rows, such as that of an export."""
        split = report.get("splits", {}).get("train")
        if not split or not split["rows"]:
            return None
        rows, unknown = split["rows"], split.get("unknown", {})
        coverage = {n: shares["train"] for n, shares in report.get("coverage", {}).items() if shares.get("train") is not None}
        labels = {n: (happened, rows - unknown.get(n, 0)) for n, happened in split.get("positives", {}).items()}
        return _Rows(rows, split.get("days", ()), coverage, report.get("histograms", {}), labels)


def drift(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    folder: str,
    known_to_base: Mapping[str, int] | None = None,
    to_score: bool = False,
    growing: Collection[str] = (),
) -> dict[str, Any]:
    """Compares two reports. What either of them lacks is left out.

    before: the report of the base, in `folder`. known_to_base: by id, how many training rows have a value that the base's
    vocabulary holds. to_score: the rows are to be scored, so that labels may be missing. growing: statistics of all times,
    which move by themselves as the log grows: their PSI is no warning.

    In the result, `before` and `now` are shares of rows: with a known id, with the statistic, with a positive label; of labels
    that are numbers, means. `crossed` names the thresholds that an entry crosses. There is a warning for each of them, and one
    for all statistics together.
    """
    here = _Rows.of(now)
    try:
        there = _Rows.of(before)
    except (AttributeError, KeyError, TypeError):  # another program's, or a damaged one
        there = None
    compared: dict[str, Any] = {"folder": folder, "days": [], "rows": 0}
    compared |= {kind: {} for kind in ("ids", "statistics", "labels", "numbers", "classes")}
    if there is None:
        return compared | {"warnings": [f"{folder}/report.json does not tell of training rows: drift cannot be measured"]}
    compared |= {"days": list(there.days), "rows": there.rows}
    if here is None:
        return compared | {"warnings": [f"the training part has no rows: drift against {folder} cannot be measured"]}
    for name in here.coverage:
        if name not in there.coverage:
            continue
        if name in now["vocabularies"]:
            compared["ids"][name] = _id(there, here, name, (known_to_base or {}).get(name))
        elif name in there.histograms or name in here.histograms:  # others tell nothing, and are not stored
            compared["statistics"][name] = _statistic(there, here, name, name in growing)
    compared["labels"] = {n: _label(there, here, n, to_score) for n in here.labels if n in there.labels}
    for kind, compare in (("numbers", number_drift), ("classes", class_drift)):
        told = before.get(kind, {})
        entries = {n: compare(told[n], entry, to_score) for n, entry in now.get(kind, {}).items() if n in told}
        compared[kind] = {n: entry for n, entry in entries.items() if entry is not None}
    return compared | {"warnings": list(_warnings(compared))}


def _id(there: _Rows, here: _Rows, name: str, known: int | None) -> dict[str, Any]:
    before, now = there.coverage[name], here.coverage[name]
    to_base = None if known is None else round(known / here.rows, 6)
    crossed = []
    if before - now > KNOWN_WARNING and is_sure(before, there.rows, now, here.rows):
        crossed.append("known")
    elif to_base is not None and to_base < KNOWN_TO_BASE_WARNING * before and is_sure(before, there.rows, to_base, here.rows):
        crossed.append("known_to_base")
    return {"before": before, "now": now, "known_to_base": to_base, "crossed": crossed}


def _statistic(there: _Rows, here: _Rows, name: str, grows: bool) -> dict[str, Any]:
    before, now = there.coverage[name], here.coverage[name]
    entry: dict[str, Any] = {"before": before, "now": now, "psi": None, "grows": grows}
    crossed = []
    if abs(before - now) > MISSING_WARNING and is_sure(before, there.rows, now, here.rows):
        crossed.append("missing")
    first, second = (of.histograms.get(name, {}) for of in (there, here))
    held, counts = first.get("buckets"), second.get("buckets")
    # Boundaries that were fitted anew cut the values into other buckets.
    if held and counts and first.get("boundaries") == second.get("boundaries") and sum(held) and sum(counts):
        value = psi(shares(held), shares(counts))
        entry |= {"psi": round(value, 6), "buckets_before": list(held)}
        if value > PSI_WARNING and not grows and are_other_values(held, counts):
            crossed.append("psi")
    return entry | {"crossed": crossed}


def _label(there: _Rows, here: _Rows, name: str, to_score: bool) -> dict[str, Any]:
    (happened_before, known_before), (happened, known) = there.labels[name], here.labels[name]
    before = happened_before / known_before if known_before else None
    now = happened / known if known else None
    missing_before, missing = 1 - known_before / there.rows, 1 - known / here.rows
    crossed, chance = [], None
    if (
        not to_score
        and abs(missing_before - missing) > MISSING_WARNING
        and is_sure(missing_before, there.rows, missing, here.rows)
    ):
        crossed.append("missing")
    if before is not None and now is not None:
        chance = deviations(before, known_before, now, known)
        if abs(chance) > SURE and (_is_beyond(before, now) or _is_beyond(1 - before, 1 - now)):
            crossed.append("rate")
    return {
        "before": before,
        "now": now,
        "deviations": chance,
        "known_rows_before": known_before,
        "known_rows": known,
        "missing_before": round(missing_before, 6),
        "missing": round(missing, 6),
        "crossed": crossed,
    }


def _is_beyond(before: float, now: float) -> bool:
    return max(before, now) > RATE_WARNING * min(before, now)


def _some(entries: Sequence[str]) -> str:
    more = f", and {len(entries) - _NAMED} more" if len(entries) > _NAMED else ""
    return f"{', '.join(entries[:_NAMED])}{more}"


def _warnings(compared: Mapping[str, Any]) -> Iterator[str]:
    folder = compared["folder"]
    for name, entry in compared["ids"].items():
        if "known" in entry["crossed"]:
            yield f"{entry['now']:.1%} of the rows have a known {name}; in {folder}, {entry['before']:.1%} had"
        if "known_to_base" in entry["crossed"]:
            yield (
                f"{name} is mostly new: the vocabulary of {folder} holds it in {entry['known_to_base']:.1%} of the rows; of "
                f"its own rows, in {entry['before']:.1%}"
            )
    missing = {n: e for n, e in compared["statistics"].items() if "missing" in e["crossed"]}
    if missing:
        worst = sorted(missing.items(), key=lambda item: -abs(item[1]["before"] - item[1]["now"]))
        listed = _some([f"{n} in {1 - e['now']:.1%} of the rows ({1 - e['before']:.1%} there)" for n, e in worst])
        yield f"missing more or less often than in {folder}: {listed}"
    other = {n: e["psi"] for n, e in compared["statistics"].items() if "psi" in e["crossed"]}
    if other:
        listed = _some([f"{n} ({value:.2f})" for n, value in sorted(other.items(), key=lambda item: -item[1])])
        yield (
            f"other values than in {folder}, by a population stability above {PSI_WARNING:g}: {listed}. --anew NAME fits the "
            f"boundaries of such a statistic again"
        )
    for name, entry in compared["labels"].items():
        if "missing" in entry["crossed"]:
            before, now = entry["missing_before"], entry["missing"]
            yield f"label {name} is unknown in {now:.1%} of the rows; in {folder}, in {before:.1%}"
        if "rate" in entry["crossed"]:
            yield f"label {name} happens in {entry['now']:.3%} of the rows that know it; in {folder}, in {entry['before']:.3%}"
    yield from label_warnings(compared["numbers"] | compared["classes"], folder)
