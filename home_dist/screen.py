"""What a command prints, on the first rank only: lines, tables, one line of progress, or one JSON document.

A terminal shows progress in one line that is written anew; a log gets a line each time. Escape codes go to terminals alone, and
to none where NO_COLOR is set. With `--json` a command's standard output holds its document and nothing else.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.control import Control
from rich.segment import ControlType
from rich.table import Table

_LOG_WIDTH = 110
"""Columns where the output is no terminal, as under torchx: a fixed width keeps tables whole."""
_ERASE = ((ControlType.CARRIAGE_RETURN,), (ControlType.ERASE_IN_LINE, 2))
_shown: list[str] = []
"""The line of progress that the terminal shows now, if any: it is one of the process, not of a Screen."""
_kept: list[bool] = []
"""Holds an entry while standard output is kept for a document."""


def escapes() -> bool:
    """Whether standard output takes escape codes (no-color.org)."""
    return os.isatty(1) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class Screen:
    """Prints on the first rank only."""

    def __init__(self, first: bool):
        width, colours = None if os.isatty(1) else _LOG_WIDTH, "auto" if escapes() else None
        self._console = Console(width=width, highlight=False, soft_wrap=True, color_system=colours)  # type: ignore[arg-type]
        self._quiet = not first

    def say(self, text: str) -> None:
        if not self._quiet:
            with self._above_progress():
                self._console.print(text, markup=False)

    def say_if(self, text: str) -> None:
        if text:
            self.say(text)

    def table(self, table: Table) -> None:
        if not self._quiet and not _kept:
            with self._above_progress():
                self._console.print(table)

    def progress(self, parts: Sequence[str]) -> None:
        """Tells how far a long step is, in place of what was told before. parts: from the most important to the least, but for
        the last one; a narrow terminal goes without those before the last."""
        if self._quiet:
            return
        if not escapes():
            self._console.print(" | ".join(parts), markup=False)
            return
        self._erase()
        _shown[:] = [_fitted(parts, self._console.width - 1)]
        self._draw()

    def keep_progress(self) -> None:
        """Leaves the line of progress as it is: what is printed next goes below it."""
        if _shown and not self._quiet:
            _shown.clear()
            self._console.print()

    @contextmanager
    def _above_progress(self) -> Iterator[None]:
        self._erase()
        yield
        self._draw()

    def _erase(self) -> None:
        if _shown:
            self._console.control(Control(*_ERASE))

    def _draw(self) -> None:
        if _shown:
            self._console.print(_shown[0], markup=False, end="")


def _fitted(parts: Sequence[str], width: int) -> str:
    kept = list(parts)
    while len(kept) > 2 and len(" | ".join(kept)) > width:
        del kept[-2]
    return " | ".join(kept)[:width]


@contextmanager
def kept_for_document() -> Iterator[None]:
    """Within the context, what the command, libraries and processes that it starts write to standard output goes to standard
    error, and tables are left out."""
    sys.stdout.flush()
    own = os.dup(1)
    os.dup2(2, 1)
    _kept.append(True)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(own, 1)
        os.close(own)
        _kept.pop()
