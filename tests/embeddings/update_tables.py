"""One rank's part of test_optimizers.py: trains sharded tables on ids that repeat, and leaves what they hold before and after.

Arguments: a run's TOML file, a folder to write to, then per case a name and its overrides in one word, with spaces between.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from torchrec.distributed import DistributedModelParallel
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from home_dist.config import CheckpointSection, RunConfig, load_config
from home_dist.data.inputs import open_inputs
from home_dist.distributed import ranks
from home_dist.embeddings.collections import table_shards
from home_dist.schema import load_schema
from home_dist.training.build import Built, build
from home_dist.training.checkpoint.folder import Checkpoints
from home_dist.training.checkpoint.loading import load
from home_dist.training.checkpoint.saver import Saver
from home_dist.training.checkpoint.state import TrainState

ROWS, SAMPLES, STEPS = 12, 16, 3
"""Ids are so few that most of them repeat, in a sample and in a batch."""


def draw(place: str, keys: list[str], step: int, rank: int) -> KeyedJaggedTensor:
    """The ids of a step, each key's for itself."""
    random = torch.Generator().manual_seed(1000 * step + 10 * rank + len(place))
    lengths = torch.randint(0, 5, (len(keys) * SAMPLES,), generator=random, dtype=torch.int32)
    total = int(lengths.sum())
    weights = torch.randn(total, generator=random) if place == "weighted_bag" else None
    return KeyedJaggedTensor(keys, torch.randint(0, ROWS, (total,), generator=random), lengths=lengths, weights=weights)


def factors(key: str, rows: int, dim: int, step: int, rank: int) -> torch.Tensor:
    """The loss's gradient at what was found for a key, (rows, dim)."""
    random = torch.Generator().manual_seed(5000 * step + 10 * rank + sum(key.encode()))
    return torch.randn(rows, dim, generator=random)


def train(built: Built, keys: dict[str, list[str]], steps: range, rank: int) -> None:
    model, optimizer = built.model, built.optimizer
    for step in steps:
        loss = sum(p.sum() for p in model.module.head.parameters()) * 1e-3  # AdamW makes its state when there is a gradient
        for place, module in (("bag", model.module.bags), ("weighted_bag", model.module.weighted_bags)):
            if module is not None:
                for key, found in module(draw(place, keys[place], step, rank)).to_dict().items():
                    loss = loss + (found * factors(key, *found.shape, step, rank)).sum()
        for key, found in model.module.events(draw("event", keys["event"], step, rank)).items():
            loss = loss + (found.values() * factors(key, *found.values().shape, step, rank)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def shards(model: DistributedModelParallel) -> list[tuple[str, int, int, torch.Tensor]]:
    return [(s.table, s.first_row, s.first_column, s.values.clone()) for s in table_shards(model)]


def main(path: str, out: str, *cases: str) -> None:
    formed = ranks.form_ranks(load_config(path, ["distributed.threads=1"]).distributed)
    for line in cases:
        name, *overrides = line.split(" ")
        config = load_config(path, overrides)
        inputs = open_inputs(config, load_schema(config.schema_path()), ("train",))
        keys = {p: [i.key for i in inputs.layout.at(p)] for p in ("bag", "weighted_bag", "event")}

        def built(seed: int, config: RunConfig = config, inputs=inputs) -> Built:
            seeded = config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})
            return build(replace(inputs, config=seeded), formed)

        first = built(seed=0)
        before = shards(first.model)
        train(first, keys, range(STEPS), formed.rank)
        after = shards(first.model)
        saver = Saver(Checkpoints(Path(out) / f"{name}.checkpoints", CheckpointSection()), {}, asynchronous=False)
        position = inputs.training_reader(formed).position(0, 0)
        saved = saver.save(first.model, first.optimizer, TrainState(STEPS, 0, False, position, formed.world_size))
        train(first, keys, range(STEPS, 2 * STEPS), formed.rank)
        other = built(seed=1)
        load(saved, other.model, other.optimizer)
        resumed = shards(other.model)
        train(other, keys, range(STEPS, 2 * STEPS), formed.rank)
        torch.save(
            {
                "before": before,
                "after": after,
                "resumed": resumed,
                "straight": shards(first.model),
                "continued": shards(other.model),
                "tables": {i.key: (i.table.name, i.table.dim) for i in inputs.layout.inputs},
                "keys": keys,
            },
            Path(out) / f"{name}.{formed.rank}.pt",
        )
    ranks.leave_ranks()


if __name__ == "__main__":
    main(*sys.argv[1:])
