"""Lines of a finished report that a pipeline prints."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from home_dist.prepare.days import ALL_ROWS
from home_dist.prepare.extremes import warning
from home_dist.prepare.label_report import one_value

_NAMED = 3  # most files named in a line
_EARLY = "2000"  # no log of impressions is older


def part_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """A line per split, with days, rows, users and positives; then a line about each thing that needs a look."""
    for name, part in report["splits"].items():
        span = " to ".join(dict.fromkeys(part["days"])) if part["days"][0] == ALL_ROWS else " to ".join(part["days"])
        positives = ", ".join(f"{task} {count:,}" for task, count in part["positives"].items())
        users = f", {part['users']:,} users" if part["users"] else ""
        yield f"{name}: {span}, {part['rows']:,} rows{users}; positives: {positives}"
    yield from _labels(report)
    yield from _base(report)
    yield from _before(report)
    for column, files in report.get("files_without_a_column", {}).items():
        yield f"note: column {column!r} is missing in {_some(files)}: its rows have no value there"
    rounded = [f"{n} to {r['step']:g} ({r['values']:,} values)" for n, r in report.get("rounded_to", {}).items()]
    if rounded:
        yield f"note: numbers are stored rounded, finer than most buckets are: {', '.join(rounded)}"
    yield from _extremes(report)
    yield from _repeated(report)


def _labels(report: Mapping[str, Any]) -> Iterator[str]:
    """Of labels that are not binary."""
    numbers, classes = report.get("numbers", {}), report.get("classes", {})
    parts = [(name, entry["splits"].get("train", {})) for name, entry in numbers.items()]
    means = [f"{name} {part['mean']:.4g} ({part['deviation']:.4g})" for name, part in parts if part.get("known")]
    if means:
        yield f"mean (deviation) in the training part: {', '.join(means)}"
    for name, value in one_value(numbers, classes).items():
        yield f"WARNING: label {name!r} is {value} in all training rows that know it: nothing is learned of it"
    for name, entry in {**numbers, **classes}.items():
        if not entry["splits"].get("train", {}).get("known"):
            yield f"WARNING: no training row knows label {name!r}: it has no fitted values, and nothing is learned of it"


def _base(report: Mapping[str, Any]) -> Iterator[str]:
    grown = report.get("vocabularies_grown", {})
    if grown:
        entries = []
        for name, entry in grown.items():
            full = f", {entry['without_room']:,} found no room" if entry["without_room"] else ""
            entries.append(f"{name} +{entry['new']:,} ({report['vocabularies'][name] - 1:,}{full})")
        yield f"vocabularies: {', '.join(entries)}"
    for text in report.get("base", {}).get("warnings", []):
        yield f"WARNING: {text}"


def _before(report: Mapping[str, Any]) -> Iterator[str]:
    files = report.get("files_before_the_training_days", [])
    if not files:
        if nowhere := report.get("rows_in_no_part", 0):
            yield f"note: {nowhere:,} rows are in no part: the split names none for them. They count in what was known before"
        return
    first = min(part["days"][0] for part in report["splits"].values())
    file_rows = [f"{f['rows']:,} of {f['file']} ({f['first']} to {f['last']})" for f in files[:_NAMED]]
    more = f", and {len(files) - _NAMED:,} more files" if len(files) > _NAMED else ""
    yield (
        f"note: {sum(f['rows'] for f in files):,} rows are in no part, as they are older than the first training day, {first}: "
        f"{', '.join(file_rows)}{more}. They count in what was known before later rows"
    )
    early = [f["file"] for f in files if f["first"] < _EARLY]
    if early:
        yield f"WARNING: times before the year {_EARLY} stand in {_some(early)}: perhaps in another unit than the others"


def _extremes(report: Mapping[str, Any]) -> Iterator[str]:
    for name, entry in report.get("extremes", {}).items():
        if entry.get("suspicious"):
            where = f"row {entry['row']:,} of {entry['file']}"
            yield warning(name, entry["lowest"], entry["highest"], entry["half_below"], entry["99.9%_below"], where)
        if entry["infinite"]:
            yield f"note: column {name!r} holds {entry['infinite']:,} infinite values: they count as missing"


def _repeated(report: Mapping[str, Any]) -> Iterator[str]:
    repeated = report.get("repeated_rows", {"rows": 0})
    if not repeated["rows"]:
        return
    treatment = (
        "left out, as the description says"
        if repeated["merged"]
        else 'they count and enter histories like others; repeated = "merge" in the description takes each once'
    )
    yield (
        f"note: {repeated['rows']:,} rows of {repeated['users']:,} users are like an earlier row in all that is read of them "
        f"({repeated['most']:,} of one user and moment at most): {treatment}"
    )


def _some(files: Sequence[str]) -> str:
    more = f" and {len(files) - _NAMED:,} more files" if len(files) > _NAMED else ""
    return f"{', '.join(files[:_NAMED])}{more}"
