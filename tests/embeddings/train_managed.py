"""One rank's part of test_managed.py: trains tables with managed ids, and leaves what each id read in each step, and the end.

Arguments: a run's TOML file, a folder to write to, then per case a name and its overrides in one word, with spaces between.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from home_dist.config import CheckpointSection, load_config
from home_dist.data.inputs import open_inputs
from home_dist.distributed import ranks
from home_dist.schema import load_schema
from home_dist.training.build import Built, build
from home_dist.training.checkpoint.folder import Checkpoints
from home_dist.training.checkpoint.loading import load
from home_dist.training.checkpoint.saver import Saver
from home_dist.training.checkpoint.state import TrainState

ROWS, STEPS, SAMPLES = 64, 12, 8


def draw(keys: list[str], few: bool, step: int, rank: int) -> KeyedJaggedTensor:
    """Ids of a step, hashes as the reader would make them: of 40 in all, or Zipf-distributed with new ones all the time."""
    random = np.random.default_rng([step, rank])
    lengths = random.integers(0, 6, len(keys) * SAMPLES) + step % 3  # later batches have more than the first
    count = int(lengths.sum())
    numbers = random.integers(0, 40, count) if few else random.zipf(1.3, count) % 5000
    hashes = np.random.default_rng(0).integers(0, 2**62, 5000)[numbers]
    return KeyedJaggedTensor(keys, torch.from_numpy(hashes), lengths=torch.from_numpy(lengths.astype(np.int32)))


def train(built: Built, keys: list[str], few: bool, steps: range, rank: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Each step's ids (n,) and the vectors (n, dim) that they read; the loss's gradient is one everywhere."""
    seen = []
    for step in steps:
        torch.manual_seed(100 * step + rank)
        ids = draw(keys, few, step, rank)
        found = built.model.module.managed(ids)[0]
        vectors = torch.cat([found[k].values() for k in keys])
        seen.append((ids.values(), vectors.detach().clone()))
        loss = vectors.sum() + sum(p.sum() for p in built.model.module.head.parameters()) * 1e-3
        built.optimizer.zero_grad()
        loss.backward()
        built.optimizer.step()
    return seen


def state(built: Built) -> dict[str, torch.Tensor]:
    """What of the managed module lies on this rank."""
    found = {}
    for name, value in built.model.module.managed.state_dict().items():
        key = ".".join(name.split(".")[-2:]) if ".owners." in name or ".waiting." in name else name.split(".")[-1]
        found[key] = value.local_shards()[0].tensor.clone() if hasattr(value, "local_shards") else value.clone()
    for key, states in built.optimizer.state_dict()["state"].items():
        if "managed" in key:
            found |= {n.split(".")[-1]: s.local_shards()[0].tensor.clone() for n, s in states.items()}
    return found


def main(path: str, out: str, *cases: str) -> None:
    formed = ranks.form_ranks(load_config(path, ["distributed.threads=1"]).distributed)
    for line in cases:
        name, *overrides = line.split(" ")
        config = load_config(path, overrides)
        inputs = open_inputs(config, load_schema(config.schema_path()), ("train",))
        keys, few = [i.key for i in inputs.layout.at("managed")], "roomy" in name
        first = build(inputs, formed)
        first.model.train()
        seen = train(first, keys, few, range(STEPS), formed.rank)
        middle = state(first)
        saver = Saver(Checkpoints(Path(out) / f"{name}.checkpoints", CheckpointSection()), {}, asynchronous=False)
        position = inputs.training_reader(formed).position(0, 0)
        saved = saver.save(first.model, first.optimizer, TrainState(STEPS, 0, False, position, formed.world_size))
        straight = train(first, keys, few, range(STEPS, 2 * STEPS), formed.rank)
        other = build(inputs, formed)
        other.model.train()
        with torch.no_grad():
            for value in other.model.module.state_dict().values():
                for part in value.local_shards() if hasattr(value, "local_shards") else [value]:
                    getattr(part, "tensor", part).add_(1)
        load(saved, other.model, other.optimizer)
        resumed = train(other, keys, few, range(STEPS, 2 * STEPS), formed.rank)
        left = {"seen": seen, "middle": middle, "straight": straight, "resumed": resumed}
        torch.save({**left, "end": state(first), "end_resumed": state(other)}, Path(out) / f"{name}.{formed.rank}.pt")
    ranks.leave_ranks()


if __name__ == "__main__":
    main(*sys.argv[1:])
