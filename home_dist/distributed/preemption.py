"""Preemption: a job that a scheduler asks to leave writes a checkpoint first.

Schedulers send SIGTERM some time before they take the machine (Slurm's KillWait and --signal, Kubernetes' grace period).
torchrun passes it on to its ranks and kills them 30 seconds later. SIGUSR1 has the same effect.
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
    """The run has written a checkpoint and can be started again. Exit code 75 is the system's EX_TEMPFAIL: try again."""

    exit_code = 75
    prefix = ""


class Preemption:
    """Within this context a signal does not end the process; `asked` reports it to all ranks at the same step.

    Ranks may get a signal at different steps, or only one rank gets it. So each step starts an asynchronous all-reduce of the
    ranks that got one, and reads the result of the previous step's all-reduce: no step waits.
    """

    def __init__(self) -> None:
        self._group = dist.new_group(backend="gloo")
        self._received = False
        self._pending: tuple[Any, torch.Tensor] | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Preemption":
        if threading.current_thread() is threading.main_thread():  # only there can Python set handlers
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
        """Whether any rank had got a signal by the previous call; the same on all ranks. Collective, once per step."""
        asked = self._read()
        count = torch.tensor([int(self._received)])
        self._pending = (dist.all_reduce(count, group=self._group, async_op=True), count)
        return asked

    def leave(self, ranks: Ranks, message: str) -> NoReturn:
        """Every rank calls it; the first one raises the message."""
        raise Preempted(message) if ranks.first else OtherRankFailed(Preempted.exit_code)

    def _read(self) -> bool:
        if self._pending is None:
            return False
        work, count = self._pending
        self._pending = None
        work.wait()
        return bool(count.item())
