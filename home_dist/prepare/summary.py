"""What a pipeline prints of its report when it is done."""

from collections.abc import Iterator, Mapping
from typing import Any


def part_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """A line per part: its days, rows, users and positives."""
    for name, part in report["splits"].items():
        first, last = part["days"]
        positives = ", ".join(f"{task} {count:,}" for task, count in part["positives"].items())
        yield f"{name}: {first} to {last}, {part['rows']:,} rows, {part['users']:,} users; positives: {positives}"
