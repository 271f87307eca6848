"""home-dist on a rank that is killed when it has trained its last step, before its last version."""

import os
import signal

from home_dist.cli import main
from home_dist.publish.live import Publisher


def killed(self, state):
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    Publisher.end = killed
    main()
