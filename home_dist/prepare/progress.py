"""Progress of a long step: a bar with rows/s and ETA in a terminal, else a line now and then."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.progress import Task as Bar
from rich.text import Text

from home_dist.screen import escapes

Advance = Callable[[int], None]
Say = Callable[[str], None]
"""Prints a line of text. A Progress is a Say, too."""
EVERY_S = 5.0
"""Seconds between lines where there is no terminal."""


class Progress:
    """say: receives the lines; by default they are printed. bars: show bars; by default where `escapes` says so."""

    def __init__(self, say: Say | None = None, bars: bool | None = None):
        self._say = say or (lambda text: print(text, flush=True))
        self._bars = (escapes() and say is None) if bars is None else bars

    @classmethod
    def of(cls, say: Say) -> "Progress":
        return say if isinstance(say, Progress) else cls(say)

    def __call__(self, text: str) -> None:
        self._say(text)

    @contextmanager
    def step(self, title: str, rows: int, done: int = 0, unit: str = "rows") -> Iterator[Advance]:
        """Shows one step. Within it, advance(n) adds n rows (or other units). done: rows that an earlier run finished."""
        began = time.monotonic()
        reached = done
        if self._bars:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), _Pace(unit))
            with Bars(*columns, TextColumn("ETA"), TimeRemainingColumn(), console=Console(), transient=True) as bars:
                bar = bars.add_task(title, total=max(rows, 1), completed=done)

                def advance(more: int) -> None:
                    nonlocal reached
                    reached += more
                    bars.advance(bar, more)

                yield advance
        else:
            spoke = began

            def advance(more: int) -> None:
                nonlocal reached, spoke
                reached += more
                now = time.monotonic()
                if now - spoke >= EVERY_S and reached < rows:
                    spoke = now
                    pace = (reached - done) / (now - began)
                    left = (rows - reached) / max(pace, 1e-9)
                    share = reached / max(rows, 1)
                    self(f"{title}: {reached:,} of {rows:,} {unit} {share:4.0%} | {pace:,.0f} {unit}/s | ETA {left:,.0f} s")

            yield advance
        took = max(time.monotonic() - began, 1e-9)
        self(f"{title}: {reached:,} {unit} in {took:,.1f} s | {(reached - done) / took:,.0f} {unit}/s")


class _Pace(ProgressColumn):
    def __init__(self, unit: str):
        super().__init__()
        self._unit = unit

    def render(self, task: Bar) -> Text:
        return Text(f"{task.speed or 0:,.0f} {self._unit}/s")
