"""`home-dist bench`, as every rank runs it."""

from pathlib import Path
from typing import Any

import torch

from home_dist.config import RunConfig
from home_dist.data.inputs import open_inputs
from home_dist.data.side_files import schema_of
from home_dist.distributed.ranks import Ranks, together
from home_dist.errors import ConfigError
from home_dist.files.json_files import write_json
from home_dist.screen import Screen
from home_dist.speed import show
from home_dist.speed.measure import measure
from home_dist.training.opening import detected, kernel_taken
from home_dist.training.profiling import exchanges_table, parts_table


def bench(
    config: RunConfig, ranks: Ranks, warm_up: int, steps: int, traced: int, out: Path | None, overlap: bool = True
) -> dict[str, Any]:
    """Trains some steps and shows their speed; returns the figures. Writes no run folder, only `out`. Raises UserError.

    overlap: whether the pipeline exchanges a batch's ids during the step before, as in training.
    """
    screen = Screen(ranks.first)
    screen.say(together(lambda: detected(ranks, config.kernel)))
    together(lambda: _check(out) if ranks.first else None)
    schema = together(lambda: schema_of(config))
    inputs = together(lambda: open_inputs(config, schema, ("train",)))
    screen.say(f"data: {config.data.shown} | {inputs.files['train'].rows:,} rows to train on | {warm_up} steps to warm up")
    speed, built = measure(inputs, ranks, warm_up, steps, traced, overlap)
    screen.say_if(kernel_taken(ranks, config.kernel, built.kernel))
    screen.table(show.table(speed, config, ranks))
    screen.table(parts_table(speed.breakdown))
    if speed.breakdown.exchanges and ranks.world_size > 1:
        screen.table(exchanges_table(speed.breakdown))
    device = torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else "CPU"
    figures = show.tree(speed, config, ranks, device, built.kernel)
    if out is not None and ranks.first:
        write_json(out, figures, indent=2)
    screen.say_if(f"figures: {out}" if out else "")
    return figures


def _check(out: Path | None) -> None:
    if out is not None and not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}")
