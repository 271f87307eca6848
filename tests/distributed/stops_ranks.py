"""One rank's part of test_exact_resume.py: a run that is stopped after chosen steps and started again, in one set of processes.

    stops_ranks.py CONFIG NAME STEP,STEP,... [--set KEY=VALUE ...]

What is stopped is the trainer, right after a checkpoint is on disk; the model, the optimizers and the reader are built anew.
"""

import sys
import time
from typing import Any

from home_dist.config import load_config
from home_dist.distributed import ranks
from home_dist.training.checkpoint.saver import Saver
from home_dist.training.train import train

WRITING_SECONDS = 0.2
"""Longer than a step, which must change nothing of what is being written."""


class Stop(Exception):
    pass


def main(path: str, name: str, stops: str, *overrides: str) -> None:
    config = load_config(path, [o for o in overrides if o != "--set"] + ["distributed.threads=1"])
    formed = ranks.form_ranks(config.distributed)
    config = load_config(path, [*(o for o in overrides if o != "--set"), f"run.dir={config.run.dir}/{name}"])
    left = [int(step) for step in stops.split(",") if step]
    save, write = Saver.save, Saver._write

    def stopping(self: Saver, model: Any, optimizer: Any, state: Any, meter: Any = None) -> Any:
        saved = save(self, model, optimizer, state, meter)
        if left and state.step == left[0]:
            self.wait()
            raise Stop
        return saved

    def slowly(self: Saver, *args: Any) -> None:
        time.sleep(WRITING_SECONDS)
        write(self, *args)

    Saver.save, Saver._write = stopping, slowly
    while True:
        try:
            train(config, formed)
            break
        except Stop:
            print(f"stopped after {left.pop(0)}", flush=True)
    ranks.leave_ranks()


if __name__ == "__main__":
    main(*sys.argv[1:])
