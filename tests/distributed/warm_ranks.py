"""One rank's part of test_warm_optimizer.py, which starts processes once for many cases.

    warm_ranks.py save CONFIG RUN CASE...      trains some steps, saves into a run's folder RUN-WORLD-CASE
    warm_ranks.py resume CONFIG RUN CASE...    for each such run and each case: loads it, takes a step; starts warm from it with
                                               another seed, takes the same step; prints what differs
    warm_ranks.py begin CONFIG RUN OUT CASE    starts warm from RUN, or afresh for "-", and saves into OUT without a step;
                                               prints the report and the names of the feature vector's columns

A case is the optimizer, and the sharding of the tables user, tag and video: "adagrad,row_wise,data_parallel,table_wise".
"""

import json
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from home_dist.axes import columns_of
from home_dist.config import CheckpointSection, WarmStartSection, load_config
from home_dist.data.inputs import Inputs, open_inputs
from home_dist.distributed import ranks as forming
from home_dist.distributed.ranks import together
from home_dist.network import Head
from home_dist.schema import load_schema
from home_dist.training.build import Built, build
from home_dist.training.checkpoint.folder import Checkpoints
from home_dist.training.checkpoint.loading import load
from home_dist.training.checkpoint.saver import Saver
from home_dist.training.checkpoint.state import TrainState
from home_dist.training.optimizers import create_state
from home_dist.training.run_folder import RunFolder
from home_dist.training.warm_start import WarmStart
from tests.distributed.reshard_ranks import TABLES, gathered

STEPS = 3


def built_for(config_path: str, case: str, *more: str) -> tuple[Inputs, Built]:
    optimizer, *shardings = case.split(",")
    overrides = [f"embedding.tables.{t}.sharding={kind}" for t, kind in zip(TABLES, shardings, strict=True)]
    overrides += [f"embedding.optimizer={optimizer}", "embedding.dim=512", "distributed.threads=1"]
    config = load_config(config_path, [*overrides, *more])
    inputs = open_inputs(config, load_schema(config.schema_path()))
    return inputs, build(inputs, FORMED)


def train(inputs: Inputs, built: Built, first: int, count: int) -> TrainState:
    """Steps `first` .. `first` + `count` - 1, counted from 0."""
    reader = inputs.training_reader(FORMED)
    built.model.train()
    for batch in islice(reader.epoch(0), first, first + count):
        built.optimizer.zero_grad()
        loss, _ = built.model(batch)
        loss.backward()
        built.optimizer.step()
    return TrainState(first + count, 0, False, reader.position(0, first + count), dist.get_world_size())


def save(inputs: Inputs, built: Built, state: TrainState, folder: Path) -> None:
    run = RunFolder(folder)
    if FORMED.first:
        with run.claimed(inputs.config, inputs.schema):
            pass
    together(lambda: None)
    saver = Saver(Checkpoints(run.checkpoints, CheckpointSection()), {}, asynchronous=False)
    saver.save(built.model, built.optimizer, state)
    saver.wait()


def begin_warm(inputs: Inputs, built: Built, source: Path, **options: object) -> list[str]:
    warm = WarmStart(WarmStartSection.model_validate({"from": str(source), **options}), inputs)
    return together(lambda: warm.fill(built.model, built.optimizer))


def after_step(inputs: Inputs, built: Built) -> dict[str, np.ndarray]:
    train(inputs, built, STEPS, 1)
    values = gathered(built)
    steps = [torch.tensor(int(m.iter)) for m in fused(built)]
    return values | {f"fused {number}": step.numpy() for number, step in enumerate(steps)}


def fused(built: Built) -> list:
    lookups = [lookup for module in built.model.modules() for lookup in getattr(module, "_lookups", ())]
    return [m for lookup in lookups for m in lookup.modules() if hasattr(m, "iter_cpu") and hasattr(m, "iter")]


def resume(config: str, run: str, case: str) -> None:
    optimizer = case.split(",")[0]
    for source in sorted(Path(run).parent.glob(f"{Path(run).name}-*-{optimizer},*")):
        inputs, built = built_for(config, case)
        load(Checkpoints(source / "checkpoints", CheckpointSection()).newest(), built.model, built.optimizer)
        resumed = after_step(inputs, built)
        # Another seed gives other first values; the batch is that of `inputs`.
        _, other = built_for(config, case, "train.seed=7")
        report = begin_warm(inputs, other, source)
        warm = after_step(inputs, other)
        _, fresh = built_for(config, case, "train.seed=7")
        begin_warm(inputs, fresh, source, optimizer=False)
        without = after_step(inputs, fresh)
        if FORMED.first:
            apart, apart_without = (
                sorted(n for n in resumed.keys() | values if not np.array_equal(resumed.get(n), values.get(n)))
                for values in (warm, without)
            )
            line = {"from": source.name, "of": len(resumed), "differ": apart, "without": len(apart_without), "report": report}
            print(json.dumps({**line, "to": f"{dist.get_world_size()}-{case}"}), flush=True)


def begin(config: str, run: str, out: str, case: str) -> None:
    inputs, built = built_for(config, case)
    report = begin_warm(inputs, built, Path(run)) if run != "-" else []
    if run == "-":
        create_state(built.optimizer)
    save(inputs, built, train(inputs, built, 0, 0), Path(out))
    head = next(m for m in built.model.modules() if isinstance(m, Head))
    if FORMED.first:
        print(json.dumps({"report": report, "columns": [entity for entity, _ in columns_of(head.features)]}), flush=True)


def main(phase: str, config: str, run: str, *rest: str) -> None:
    if phase == "begin":
        begin(config, run, *rest)
        return
    for case in rest:
        if phase == "save":
            inputs, built = built_for(config, case)
            save(inputs, built, train(inputs, built, 0, STEPS), Path(f"{run}-{dist.get_world_size()}-{case}"))
        else:
            resume(config, run, case)


if __name__ == "__main__":
    FORMED = forming.form_ranks(load_config(sys.argv[2]).distributed)
    main(*sys.argv[1:])
    forming.leave_ranks()
