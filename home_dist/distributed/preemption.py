"""A job that is asked to leave writes a checkpoint first.

Schedulers send SIGTERM some time before they take the machine (Slurm's KillWait and --signal, Kubernetes' grace period), and
torchrun hands it on to its ranks, 30 seconds before it kills them. SIGUSR1 is taken as well.
"""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from home_dist.distributed.ranks import OtherRankFailed, Ranks
from home_dist.errors import UserError

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Preempted(UserError):
    """The run stands at a checkpoint and waits to be started again. Exit code 75 is the system's EX_TEMPFAIL: try again."""

    exit_code = 75
    prefix = ""


class Preemption:
    """Within it, a signal does not end the process: `asked` tells the ranks of it, all at the same step.

    Ranks get a signal at different steps, or only one of them gets it. So each step begins to add up who got one, in the
    background, and reads what the step before has begun: nothing waits.
    """

    def __init__(self) -> None:
        self._group = dist.new_group(backend="gloo")
        self._received = False
        self._pending: tuple[Any, torch.Tensor] | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Preemption":
        if threading.current_thread() is threading.main_thread():  # elsewhere Python sets no handlers
            self._before = {s: signal.signal(s, self._receive) for s in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for sent, handler in self._before.items():
            signal.signal(sent, handler)
        if error is None:
            self._read()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = True

    def asked(self) -> bool:
        """Whether a rank was asked to leave before the last call; the same on all ranks, each of which calls it per step."""
        asked = self._read()
        count = torch.tensor([int(self._received)])
        self._pending = (dist.all_reduce(count, group=self._group, async_op=True), count)
        return asked

    def leave(self, ranks: Ranks, message: str) -> NoReturn:
        """Every rank calls it, and the first one tells."""
        raise Preempted(message) if ranks.first else OtherRankFailed(Preempted.exit_code)

    def _read(self) -> bool:
        if self._pending is None:
            return False
        work, count = self._pending
        self._pending = None
        work.wait()
        return bool(count.item())
