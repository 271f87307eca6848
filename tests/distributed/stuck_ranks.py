"""One rank's part of test_stuck.py.

    stuck_ranks.py TIMEOUT FATE

All ranks wait in a call that raises nothing, as a main thread waits for its GPU. It ends after several times the timeout
("works"); or never, and rank 1 is stopped or killed.
"""

import os
import signal
import sys
import time

from home_dist.config import DistributedSection
from home_dist.distributed import health, ranks


def main(timeout: str, fate: str) -> None:
    formed = ranks.form_ranks(DistributedSection(timeout=float(timeout), threads=1))
    health.watch_while_gpus_wait()
    ranks.together(lambda: None)
    if fate == "works":
        time.sleep(3 * float(timeout))
    elif formed.rank == 1:
        os.kill(os.getpid(), getattr(signal, fate))
    else:
        time.sleep(600)
    ranks.leave_ranks()
    print("left", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
