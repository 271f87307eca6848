"""Says in words what the numbers of prepared data mean: the texts `means` of its schema. Equal texts mean the same."""

from collections.abc import Sequence

from home_dist.prepare.days import HOUR_MS
from home_dist.prepare.generic.label_section import LabelSection
from home_dist.prepare.generic.log_sections import HistorySection, NumberSection, PastSection
from home_dist.prepare.generic.log_spec import LogSpec


def of_statistics(spec: LogSpec) -> dict[str, str]:
    """By statistic, in the order of the description."""
    told = {n.column: _of_number(n) for n in spec.number}
    for past in spec.past:
        told[f"{past.prefix}_count"] = f"log(1 + n), n: {_events(past, spec)}"
        for rate in past.rates:
            label = next(of_label(x) for x in spec.label if x.name == rate)
            told[f"{past.prefix}_{rate}"] = (
                f"log-odds of {rate} ({label}), smoothed with {past.strength:g} at the overall rate, in {_events(past, spec)}"
            )
    return told


def _of_number(number: NumberSection) -> str:
    return f"log(1 + {number.column})" if number.log else number.column


def _events(past: PastSection, spec: LogSpec) -> str:
    reach = "" if past.days is None else f" of the last {past.days:g} days"
    until = "each impression" if past.until == "impression" else f"its day, {_calendar(spec)}"
    return f"impressions with the same {', '.join(past.by)}{reach} before {until}{_forgetting(spec)}"


def _forgetting(spec: LogSpec) -> str:
    once = ", repeated rows once" if spec.repeated == "merge" else ""
    return once if spec.forget_days is None else f"{once}, since the last pause of more than {spec.forget_days:g} days"


def _calendar(spec: LogSpec) -> str:
    return spec.clock.name


def of_calendar(spec: LogSpec, name: str) -> str:
    return f"{name} of the impression, {_calendar(spec)}"


def of_label(label: LabelSection) -> str:
    match label.kind:
        case "binary":
            told = label.column if label.at_least is None else f"{label.column} >= {label.at_least:g}"
        case "multiclass":
            told = f"class of {label.column}" + (
                "" if isinstance(label.classes, int) else f", one of {', '.join(map(str, label.class_values))}"
            )
        case _:
            told = _scaled(label.column, label.scale) + ("" if label.cap is None else f", cut to {label.cap:g}")
            if label.duration is not None:
                told += f", beside the duration {_scaled(label.duration, label.duration_factor)}"
    return told if label.known is None else f"{told}, known where {label.known} > 0"


def _scaled(column: str, factor: float) -> str:
    return column if factor == 1 else f"{column} * {factor:g}"


def of_history(spec: LogSpec, history: HistorySection) -> str:
    if history.events is not None:
        of_row = f"the newest {history.most} events that the row's {history.events.column} holds"
        if history.reads_lists:
            return f"{of_row} before it" if history.events.time is not None else of_row
        asked = ", ".join(history.given.needed(history.fields))
        other = f"the newest {history.most} events of another table ({asked}) of the same {spec.user}"
        return f"{other} before each impression{_forgetting(spec)}"
    only = "" if history.only is None else f" with {history.only} ({_label(spec, history.only)})"
    return f"the newest {history.most} impressions of the same {spec.user}{only} before each impression{_forgetting(spec)}"


def of_age(bounds_ms: Sequence[int]) -> str:
    return f"hours since the event, cut at {', '.join(f'{b / HOUR_MS:.3g}' for b in bounds_ms)}"


def of_outcomes(spec: LogSpec, history: HistorySection) -> str:
    if history.events is not None:
        return f"a bit per column of the event: {', '.join(history.told)}"
    return "a bit per label that the event had: " + ", ".join(f"{n} ({_label(spec, n)})" for n in history.outcomes)


def _label(spec: LogSpec, name: str) -> str:
    return next(of_label(x) for x in spec.label if x.name == name)
