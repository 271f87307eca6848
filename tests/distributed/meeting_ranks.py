"""One rank's part of test_meeting.py.

    meeting_ranks.py TIMEOUT FATE

Rank 1 has something to do for several times the timeout ("works"), or is stopped or killed while it does.
"""

import os
import signal
import sys
import time

from home_dist.config import DistributedSection
from home_dist.distributed import ranks
from home_dist.errors import UserError


def main(timeout: str, fate: str) -> None:
    formed = ranks.form_ranks(DistributedSection(timeout=float(timeout), threads=1))
    ranks.together(lambda: None)

    def act() -> int:
        if formed.rank == 1 and fate != "works":
            os.kill(os.getpid(), getattr(signal, fate))
        until = time.monotonic() + (4 * float(timeout) if formed.rank == 1 else 0)
        while time.monotonic() < until:
            sum(range(100_000))
        return formed.rank

    try:
        print("did", ranks.together(act), flush=True)
        ranks.leave_ranks()
    except UserError as error:
        print(error, flush=True)
        os._exit(error.exit_code)


if __name__ == "__main__":
    main(*sys.argv[1:])
