"""What a pipeline prints of its report when it is done."""

from collections.abc import Iterator, Mapping
from typing import Any


def part_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """A line per part: its days, rows, users and positives; and one about what needs a look."""
    for name, part in report["splits"].items():
        first, last = part["days"]
        positives = ", ".join(f"{task} {count:,}" for task, count in part["positives"].items())
        yield f"{name}: {first} to {last}, {part['rows']:,} rows, {part['users']:,} users; positives: {positives}"
    repeated = report.get("repeated_rows", {"rows": 0})
    if repeated["rows"]:
        what = (
            "left out, as the description says"
            if repeated["merged"]
            else 'they count and enter histories like others; repeated = "merge" in the description takes each once'
        )
        yield (
            f"note: {repeated['rows']:,} rows of {repeated['users']:,} users are like an earlier row in all that is read of "
            f"them ({repeated['most']:,} of one user and moment at most): {what}"
        )
