"""torchrun, ending with one line in place of a traceback of its own, and with the exit code of the rank that failed.

python -m home_dist.torchrun --nproc_per_node 2 -m home_dist.cli train CONFIG
"""

import logging
import signal
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.run import get_args_parser, run


def main(arguments: list[str] | None = None) -> int:
    """Exit code of the rank that failed first, 128 + signal where a signal ended it, 0 if none failed."""
    # It reports each failed rank, which main() and the rank itself do as well.
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    try:
        run(get_args_parser().parse_args(arguments))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        print(f"run failed: {_reason(rank, failure)}", file=sys.stderr)
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    except SignalException as error:
        print(f"run stopped by {error.sigval.name}", file=sys.stderr)
        return 128 + error.sigval.value
    return 0


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
