"""Tells what means something else in another run's data: statistics and dense features (other boundaries, mean or deviation, or
another count), histories, labels."""

from collections.abc import Mapping

from home_dist.schema import DenseFeature, InputLayout, Schema, StatisticFeature

Standardised = StatisticFeature | DenseFeature


def changed_features(there: InputLayout, here: InputLayout) -> dict[str, str]:
    """By name, for features of both layouts that mean something else: what differs."""
    old, new = ({**layout.statistics, **{f.name: f for f in layout.dense}} for layout in (there, here))
    apart = {name: difference(old[name], new[name], _both_standardise(name, there, here)) for name in new if name in old}
    return {name: text for name, text in apart.items() if text}


def other_labels(there: Schema, here: Schema) -> dict[str, str]:
    """By name, for labels of both schemas that are not the same: what differs."""
    return _others({t.name: t.means for t in there.task}, {t.name: t.means for t in here.task})


def other_histories(there: Schema, here: Schema) -> dict[str, str]:
    """By name, for histories of both schemas that hold other events: what differs."""
    return _others({s.name: s.means for s in there.sequence}, {s.name: s.means for s in here.sequence})


def _others(there: Mapping[str, str | None], here: Mapping[str, str | None]) -> dict[str, str]:
    both = [n for n in here if there.get(n) is not None and here[n] is not None]
    return {name: f"it was {there[name]} and is {here[name]}" for name in both if there[name] != here[name]}


def _both_standardise(name: str, *layouts: InputLayout) -> bool:
    """Whether both networks read the standardised number; with embedding.dense_statistics = false only buckets are read."""
    return all(any(f.name == name for f in layout.dense) for layout in layouts)


def difference(old: Standardised, new: Standardised, standardised: bool) -> str:
    """What differs, such as "its boundaries are others, its mean was 3.2 and is 3.4"; empty if nothing does. standardised:
    whether mean and deviation matter."""
    texts = []
    if isinstance(old, StatisticFeature) and isinstance(new, StatisticFeature):
        if None not in (old.means, new.means) and old.means != new.means:
            texts.append(f"it was {old.means} and is {new.means}")
        if old.boundaries != new.boundaries:
            texts.append("its boundaries are others")
    if standardised:
        widths = [f.width if isinstance(f, DenseFeature) else 1 for f in (old, new)]
        if widths[0] != widths[1]:
            texts.append(f"its width was {widths[0]} and is {widths[1]}")
        else:
            for key in ("mean", "std"):
                before, now = (_by_place(getattr(f, key), widths[0]) for f in (old, new))
                texts += _apart(key, before, now)
    return ", ".join(texts)


def _by_place(value: float | tuple[float, ...], width: int) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,) * width


def _apart(key: str, before: tuple[float, ...], now: tuple[float, ...]) -> list[str]:
    places = [n for n, (a, b) in enumerate(zip(before, now, strict=True)) if a != b]
    if not places:
        return []
    first = places[0]
    numbers = f"{before[first]:g}", f"{now[first]:g}"
    old, new = numbers if numbers[0] != numbers[1] else (repr(before[first]), repr(now[first]))
    where = f" at place {first}" if len(before) > 1 else ""
    more = f", {len(places) - 1} more places differ" if len(places) > 1 else ""
    return [f"its {key} was {old} and is {new}{where}{more}"]
