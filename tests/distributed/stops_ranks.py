"""One rank's part of test_exact_resume.py: a run that is stopped after chosen steps and started again, in one set of processes.

    stops_ranks.py CONFIG NAME STEP,STEP,... [--set KEY=VALUE ...]

What is stopped is the trainer, right after a checkpoint is on disk; the model, the optimizers and the reader are built anew.
"""

import sys
from typing import Any

from home_dist.config import load_config
from home_dist.training import commands, ranks
from home_dist.training.checkpoint import Saver


class Stop(Exception):
    pass


def main(path: str, name: str, stops: str, *overrides: str) -> None:
    config = load_config(path, [o for o in overrides if o != "--set"] + ["distributed.threads=1"])
    formed = ranks.form_ranks(config.distributed)
    config = load_config(path, [*(o for o in overrides if o != "--set"), f"run.dir={config.run.dir}/{name}"])
    left = [int(step) for step in stops.split(",") if step]
    save = Saver.save

    def stopping(self: Saver, model: Any, optimizer: Any, state: Any, meter: Any = None) -> Any:
        saved = save(self, model, optimizer, state, meter)
        if left and state.step == left[0]:
            self.wait()
            raise Stop
        return saved

    Saver.save = stopping
    while True:
        try:
            commands.train(config, formed)
            break
        except Stop:
            print(f"stopped after {left.pop(0)}", flush=True)
    ranks.leave_ranks()


if __name__ == "__main__":
    main(*sys.argv[1:])
