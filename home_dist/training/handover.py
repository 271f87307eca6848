"""What a run hands over to while it trains; publish/live.py is the one there is."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from home_dist.training.checkpoint.state import TrainState

if TYPE_CHECKING:
    from home_dist.training.run import Run


class Handover(Protocol):
    """Every rank has one and calls it at the same steps. None of its methods fails a run, and none waits while it trains."""

    def lacks(self, checkpoint: Path) -> bool:
        """Whether what was handed over last is not the model of a run's last checkpoint. Before `begin`. Collective."""

    def begin(self, run: "Run") -> None:
        """The run is built and filled."""

    def tick(self, state: TrainState) -> None:
        """Between two steps, and now and then while the run waits for data. Collective."""

    def replaced(self) -> None:
        """All parameters and tables are others now."""

    def end(self, state: TrainState) -> None:
        """The run has trained its last step; hands that over. Collective."""


class HandoverContext(Handover, AbstractContextManager["Handover"], Protocol):
    """Entered before the run is built."""
