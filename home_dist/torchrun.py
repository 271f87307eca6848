"""torchrun, ending with one line in place of a traceback of its own, and with the exit code of the rank that failed.

python -m home_dist.torchrun --nproc_per_node 2 -m home_dist.cli train CONFIG
"""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend
from torch.distributed.run import get_args_parser, run

_ANSWER = 45.0
"""Seconds that the rendezvous may take for an answer. A healthy one needs milliseconds."""
_LAST_WORDS = 600.0
"""Seconds that ranks have for telling what they miss, before they are killed."""


def main(arguments: list[str] | None = None) -> int:
    """Exit code of the rank that failed first, 128 + signal where a signal ended it, 0 if none failed."""
    # It reports each failed rank, which main() and the rank itself do as well.
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    options = get_args_parser().parse_args(arguments)
    if options.max_restarts or ":" in options.nnodes:
        # Ranks that are started again would find the addresses of those before in a store that torchrun keeps (torch 2.13;
        # pytorch issue 135712): each start gets one of its own.
        os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    try:
        with _watched_rendezvous():
            run(options)
    except RendezvousError as error:
        print(f"run failed: no contact with the other hosts: {error}", file=sys.stderr)
        return 1
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        print(f"run failed: {_reason(rank, failure)}", file=sys.stderr)
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    except SignalException as error:
        print(f"run stopped by {error.sigval.name}", file=sys.stderr)
        return 128 + error.sigval.value
    return 0


@contextmanager
def _watched_rendezvous() -> Iterator[None]:
    """torchrun asks the rendezvous again and again, and on a host that is cut off waits for an answer for ever: torch's own
    timeout of such a question holds for the first one only. Here the process ends when there is none."""
    call: Callable[..., Any] = C10dRendezvousBackend._call_store
    asking: dict[int, float] = {}
    over = threading.Event()

    def watched(self: Any, *arguments: Any, **named: Any) -> Any:
        asking[threading.get_ident()] = time.monotonic()
        try:
            return call(self, *arguments, **named)
        finally:
            asking.pop(threading.get_ident(), None)

    def watch() -> None:
        while not over.wait(1.0):
            if any(time.monotonic() - began > _ANSWER for began in list(asking.values())):
                _give_up()

    C10dRendezvousBackend._call_store = watched  # type: ignore[method-assign]
    threading.Thread(target=watch, name="rendezvous", daemon=True).start()
    try:
        yield
    finally:
        over.set()
        C10dRendezvousBackend._call_store = call  # type: ignore[method-assign]


def _give_up() -> None:
    """Ranks find out themselves that others are missing, and tell more."""
    _, left = psutil.wait_procs(psutil.Process().children(recursive=True), timeout=_LAST_WORDS)
    for process in left:
        process.kill()
    reason = f"the rendezvous has not answered for {_ANSWER:.0f} s: this host, or the one that holds it, is cut off"
    print(f"run failed: {reason}", file=sys.stderr, flush=True)
    os._exit(1)


def _reason(rank: int, failure: ProcessFailure) -> str:
    if failure.exitcode >= 0:
        return f"rank {rank} ended with exit code {failure.exitcode}"
    name = signal.Signals(-failure.exitcode).name
    hint = {
        "SIGKILL": "; the system does that when memory is used up: fewer processes, a smaller batch or smaller tables",
        "SIGBUS": "; often /dev/shm is full",
    }.get(name, "")
    return f"rank {rank} was ended by {name}{hint}"


if __name__ == "__main__":
    sys.exit(main())
