"""home-dist on a rank whose publisher takes its time: slow_ranks.py SECONDS COMMAND ..."""

import sys
import time

from home_dist.cli import main
from home_dist.publish.folder import VersionsFolder


def slowed(seconds: float) -> None:
    finish = VersionsFolder.finish

    def slowly(self, manifest):
        time.sleep(seconds)
        return finish(self, manifest)

    VersionsFolder.finish = slowly


if __name__ == "__main__":
    slowed(float(sys.argv.pop(1)))
    main()
