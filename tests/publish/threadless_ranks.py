"""home-dist on ranks of which the second one can start no thread for some versions: threadless_ranks.py N,N COMMAND ...

N: numbers of the publishing threads, from 0 on; -1: that of the version at the end."""

import os
import sys
import threading

from home_dist.cli import main
from home_dist.publish.live import Publisher


def limited(numbers: set[int]) -> None:
    start, ended, started, ending = threading.Thread.start, Publisher.end, [0], []

    def begin(self):
        if self.name == "publish":
            started[0] += 1
            if os.environ["RANK"] == "1" and (started[0] - 1 in numbers or (ending and -1 in numbers)):
                raise RuntimeError("can't start new thread")
        start(self)

    def end(self, state):
        ending.append(True)
        ended(self, state)

    threading.Thread.start, Publisher.end = begin, end


if __name__ == "__main__":
    limited({int(n) for n in sys.argv.pop(1).split(",")})
    main()
