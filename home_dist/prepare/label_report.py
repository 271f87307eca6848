"""What a report says of labels that are not binary, by split and by day: means and quantiles of numbers, counts of classes."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from home_dist.prepare.days import SPLITS, day_name
from home_dist.prepare.label_values import BLOCK, ClassFacts, NumberFacts, rounded, short
from home_dist.prepare.sketch import Floats, Sketch, weighted_quantiles
from home_dist.schema import LabelValues

Ints = NDArray[np.int64]

DECILES, QUARTILES = tuple(np.linspace(0, 1, 11)), tuple(np.linspace(0, 1, 5))
_OF_A_DAY = 2048
"""Size of a day's sketch."""
_BINS = 40
_MOST = 0.999
"""Share of the rows whose values a histogram shows; larger ones are in its last bin."""


class NumberLabel:
    """A label that is a number, while rows go by."""

    def __init__(self, has_duration: bool = False):
        self.facts = NumberFacts(has_duration)
        self._parts = [_NumberPart() for _ in SPLITS]
        self._days: dict[tuple[int, int], _NumberPart] = {}

    def add(self, labels: Floats, known: NDArray[np.bool_], durations: Floats | None, split: Ints, day: Ints) -> None:
        """All (n,). split: place in SPLITS, or -1."""
        for index, part in enumerate(self._parts):
            own = split == index
            part.add(labels[own & known], int((own & ~known).sum()))
        chosen = (split == 0) & known
        self.facts.add(labels[chosen], None if durations is None else durations[chosen])
        for key, own in _by_day(day, split):
            self._days.setdefault(key, _NumberPart(_OF_A_DAY)).add(labels[own & known], int((own & ~known).sum()))

    def add_all(self, labels: Floats, known: NDArray[np.bool_], durations: Floats | None, split: Ints, day: Ints) -> None:
        """As `add`, for rows that are all in memory: in blocks, as when they go by."""
        for first in range(0, len(labels), BLOCK):
            rows = slice(first, first + BLOCK)
            self.add(labels[rows], known[rows], None if durations is None else durations[rows], split[rows], day[rows])

    def told(self, values: LabelValues | None, name_of: Callable[[int], str] = day_name) -> dict[str, Any]:
        """The report's entry. values: whose thresholds cut the histogram's buckets; name_of: a day."""
        return {
            "splits": {name: part.told(DECILES) for name, part in zip(SPLITS, self._parts, strict=True) if part.rows},
            "days": [
                {"day": name_of(day), "split": SPLITS[split] if split >= 0 else None, **part.told(QUARTILES)}
                for (day, split), part in sorted(self._days.items())
            ],
            "histogram": histogram(self.facts.seen, values),
        }


def _by_day(day: Ints, split: Ints) -> Iterator[tuple[tuple[int, int], NDArray[np.bool_]]]:
    """Each day and split of the rows (n,), and which rows are theirs."""
    keys = np.stack([day, split], 1)
    for number, split_of in np.unique(keys, axis=0).tolist():
        yield (number, split_of), (day == number) & (split == split_of)


class _NumberPart:
    """The rows of a split or a day."""

    def __init__(self, size: int | None = None):
        self.seen = Sketch() if size is None else Sketch(size)
        self.unknown, self.zeros = 0, 0

    @property
    def rows(self) -> int:
        return self.seen.count + self.unknown

    def add(self, labels: Floats, unknown: int) -> None:
        self.seen.add(labels)
        self.unknown += unknown
        self.zeros += int((labels == 0).sum())

    def told(self, shares: tuple[float, ...]) -> dict[str, Any]:
        known = self.seen.count
        if not known:
            return {"known": 0, "unknown": self.unknown}
        inner = self.seen.quantiles(np.asarray(shares[1:-1]))
        return {
            "known": known,
            "unknown": self.unknown,
            "mean": rounded(self.seen.mean),
            "deviation": rounded(self.seen.std),
            "zeros": round(self.zeros / known, 6),
            "quantiles": [short(v) for v in (self.seen.low, *inner.tolist(), self.seen.high)],
        }


class ClassLabel:
    """A label that is a class, while rows go by."""

    def __init__(self, classes: int):
        self.facts = ClassFacts(classes)
        self._classes = classes
        self._parts = np.zeros((len(SPLITS), classes + 1), np.int64)  # the last place is for unknown ones
        self._days: dict[tuple[int, int], Ints] = {}

    def add(self, labels: Ints, known: NDArray[np.bool_], split: Ints, day: Ints) -> None:
        """All (n,). split: place in SPLITS, or -1."""
        place = np.where(known, labels, self._classes)
        for index in range(len(SPLITS)):
            self._parts[index] += np.bincount(place[split == index], minlength=self._classes + 1)
        self.facts.add(labels[(split == 0) & known])
        for key, own in _by_day(day, split):
            counts = np.bincount(place[own], minlength=self._classes + 1)
            self._days[key] = self._days.get(key, 0) + counts

    def told(self, names: tuple[str, ...], name_of: Callable[[int], str] = day_name) -> dict[str, Any]:
        """The report's entry. names: of the classes; name_of: a day."""
        return {
            "names": list(names),
            "splits": {n: _counted(part) for n, part in zip(SPLITS, self._parts, strict=True) if part.sum()},
            "days": [
                {"day": name_of(day), "split": SPLITS[split] if split >= 0 else None, **_counted(counts)}
                for (day, split), counts in sorted(self._days.items())
            ],
        }


def _counted(counts: Ints) -> dict[str, Any]:
    return {"known": int(counts[:-1].sum()), "unknown": int(counts[-1]), "counts": counts[:-1].tolist()}


def histogram(seen: Sketch, values: LabelValues | None) -> dict[str, Any]:
    """Rows of the training part by value, and by the thresholds of `values`."""
    if not seen.count:
        return {"edges": [], "rows": [], "thresholds": [], "buckets": []}
    sample, counts = seen.weighted()
    high = float(weighted_quantiles(sample, counts, np.array([_MOST]))[0])
    edges = np.linspace(seen.low, high if high > seen.low else seen.low + 1, _BINS + 1)
    rows = np.histogram(sample.clip(edges[0], edges[-1]), bins=edges, weights=counts)[0]
    thresholds = () if values is None else values.thresholds
    bucket = np.searchsorted(np.asarray(thresholds, np.float32).astype(np.float64), sample, side="left")
    buckets = np.bincount(bucket, weights=counts, minlength=len(thresholds) + 1)
    return {
        "edges": [rounded(e) for e in edges.tolist()],
        "rows": [int(n) for n in rows],
        "thresholds": list(thresholds),
        "buckets": [int(n) for n in buckets],
    }


def one_value(labels: Mapping[str, Mapping[str, Any]], classes: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """By label whose known training rows all have one value: the value. Arguments: the report's entries of numbers, and of
    classes."""
    found = {}
    for name, entry in labels.items():
        part = entry["splits"].get("train", {})
        if part.get("known") and part["quantiles"][0] == part["quantiles"][-1]:
            found[name] = f"{part['quantiles'][0]:g}"
    for name, entry in classes.items():
        counts = entry["splits"].get("train", {}).get("counts", [])
        held = [n for n, count in enumerate(counts) if count]
        if len(held) == 1:
            found[name] = entry["names"][held[0]]
    return found
