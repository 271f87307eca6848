"""What a command prints: lines and tables, on the first rank only."""

import os

from rich.console import Console
from rich.table import Table


class Screen:
    """Prints on the first rank only."""

    def __init__(self, first: bool):
        # Under torchrun and torchx the output is no terminal: a fixed width keeps tables whole.
        self._console = Console(width=None if os.isatty(1) else 110, highlight=False, soft_wrap=True)
        self._quiet = not first

    def say(self, text: str) -> None:
        if not self._quiet:
            self._console.print(text, markup=False)

    def say_if(self, text: str) -> None:
        if text:
            self.say(text)

    def table(self, table: Table) -> None:
        if not self._quiet:
            self._console.print(table)
