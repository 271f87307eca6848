"""One rank's part of tests/distributed/test_models.py: trains one kind of model after the other, which starts processes once.

Arguments: a run's TOML file, then per run a name and its overrides in one word, with spaces between. A step that torch.compile
would compile again ends the process with an error.
"""

import sys

import torch

from home_dist.config import load_config
from home_dist.distributed import ranks
from home_dist.training.train import train


def main(path: str, *runs: str) -> None:
    torch._dynamo.config.error_on_recompile = True
    formed = ranks.form_ranks(load_config(path, ["distributed.threads=1"]).distributed)
    folder = load_config(path).run.dir
    for line in runs:
        name, *overrides = line.split(" ")
        config = load_config(path, [f"run.dir={folder}/{name}", *overrides])
        print(f"=== {name}", flush=True)
        train(config, formed)
    ranks.leave_ranks()


if __name__ == "__main__":
    main(*sys.argv[1:])
