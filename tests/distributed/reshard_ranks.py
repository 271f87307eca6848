"""One rank's part of test_resharding.py, which starts processes once for many cases.

    reshard_ranks.py save CONFIG FOLDER CASE...     trains some steps, saves, keeps what it gathered as FOLDER/WORLD-CASE.npz
    reshard_ranks.py load CONFIG FOLDER CASE...     loads every checkpoint in FOLDER into each case, prints what differs

A case is the sharding of the tables user, tag and video: "row_wise,data_parallel,table_wise". What is gathered comes from
FBGEMM's and torch's own tensors, without code of the checkpoints.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from home_dist.config import CheckpointSection, load_config
from home_dist.data.inputs import Inputs, open_inputs
from home_dist.distributed import ranks as forming
from home_dist.schema import load_schema
from home_dist.training.build import Built, build
from home_dist.training.checkpoint.folder import Checkpoints
from home_dist.training.checkpoint.loading import load
from home_dist.training.checkpoint.saver import Saver
from home_dist.training.checkpoint.state import TrainState

TABLES = ("user", "tag", "video")
STEPS = 3


def built_for(config_path: str, case: str) -> tuple[Inputs, Built]:
    overrides = [f"embedding.tables.{t}.sharding={kind}" for t, kind in zip(TABLES, case.split(","), strict=True)]
    config = load_config(config_path, [*overrides, "embedding.dim=512", "distributed.threads=1"])
    inputs = open_inputs(config, load_schema(config.schema_path()))
    return inputs, build(inputs, FORMED)


def train(inputs: Inputs, built: Built) -> TrainState:
    reader = inputs.training_reader(FORMED)
    for number, batch in enumerate(reader.epoch(0), 1):
        built.optimizer.zero_grad()
        loss, _ = built.model(batch)
        loss.backward()
        built.optimizer.step()
        if number == STEPS:
            break
    return TrainState(STEPS, 0, False, reader.position(0, STEPS), dist.get_world_size())


def local(built: Built) -> Iterator[tuple[str, tuple[int, int], tuple[int, int], np.ndarray]]:
    """(table and state, first row and column, shape of the whole, values (rows, columns)) on this rank; state of row-wise
    optimizers is repeated for each column that it is of."""
    lookups = [lookup for module in built.model.modules() for lookup in getattr(module, "_lookups", ())]
    for module in (m for lookup in lookups for m in lookup.modules()):
        inner, config = getattr(module, "_emb_module", None), getattr(module, "_config", None)
        if inner is None or not hasattr(inner, "get_optimizer_state"):
            continue
        states = inner.get_optimizer_state() or [{} for _ in config.embedding_tables]
        for table, weight, state in zip(config.embedding_tables, inner.split_embedding_weights(), states, strict=True):
            row, column = table.local_metadata.shard_offsets
            whole = (table.num_embeddings, table.embedding_dim)
            yield f"{table.name}/weight", (row, column), whole, weight.detach().numpy()
            for momentum in state.values():  # SGD has none
                yield f"{table.name}/momentum", (row, column), whole, per_column(momentum, weight.shape[1])
    for name, parameter in built.model.named_parameters():
        if type(parameter.data) is torch.Tensor and (".embedding_bags." in f".{name}" or ".embeddings." in f".{name}"):
            table = name.split(".")[-2]
            for optimizer in torch_optimizers(built):
                if any(parameter is p for group in optimizer.param_groups for p in group["params"]):
                    yield f"{table}/weight", (0, 0), tuple(parameter.shape), parameter.detach().numpy()
                total = optimizer.state.get(parameter, {}).get("sum")  # SGD has none
                if total is not None:
                    yield f"{table}/momentum", (0, 0), tuple(parameter.shape), per_column(total, parameter.shape[1])


def per_column(state: torch.Tensor, width: int) -> np.ndarray:
    """State (rows, width) of a value per row, (rows,) or (rows, 1), or per weight."""
    values = state.numpy().reshape(len(state), -1)
    return np.repeat(values, width, 1) if values.shape[1] == 1 else values


def torch_optimizers(built: Built) -> list[torch.optim.Optimizer]:
    (dense,) = (o for name, o in built.optimizer.optimizers if name == "dense")
    return [o._optimizer for _, o in dense.optimizers]


def gathered(built: Built) -> dict[str, np.ndarray]:
    """Whole tensors, on the first rank."""
    parts: list[list] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, list(local(built)))
    found: dict[str, np.ndarray] = {}
    for name, (row, column), whole, values in (entry for part in parts for entry in part):
        out = found.setdefault(name, np.full(whole, np.nan, np.float32))
        out[row : row + values.shape[0], column : column + values.shape[1]] = values
    names = {p: n for n, p in built.model.named_parameters()}
    for optimizer in torch_optimizers(built):
        for parameter, state in optimizer.state.items():
            name = names[parameter]
            if ".embedding" not in name:
                found |= {f"{name}/{key}": value.numpy().copy() for key, value in state.items()}
                found[name] = parameter.detach().numpy().copy()
    found |= {n: b.numpy().copy() for n, b in built.model.named_buffers() if n.endswith(("running_mean", "running_var"))}
    return found


def column_blocks(built: Built, table: str) -> list[tuple[int, int]]:
    sharding = next(m[table] for m in built.plan.plan.values() if table in m)
    if sharding.sharding_spec is None:
        return []
    return sorted({(s.shard_offsets[1], s.shard_sizes[1]) for s in sharding.sharding_spec.shards})


def expected(before: dict[str, np.ndarray], built: Built) -> dict[str, np.ndarray]:
    """Row-wise state that covers more columns than before is the mean of what it covers."""
    found = dict(before)
    for table in TABLES:
        name = f"{table}/momentum"
        old = before[name].astype(np.float64)
        for first, width in column_blocks(built, table) or [(0, old.shape[1])]:
            mean = old[:, first : first + width].mean(1, keepdims=True)
            found[name] = found[name].copy() if found[name] is before[name] else found[name]
            found[name][:, first : first + width] = mean.astype(np.float32)
    return found


def main(phase: str, config: str, folder: str, *cases: str) -> None:
    world, root = dist.get_world_size(), Path(folder)
    for case in cases:
        inputs, built = built_for(config, case)
        if phase == "save":
            state = train(inputs, built)
            whole = gathered(built)
            saver = Saver(Checkpoints(root / f"{world}-{case}", CheckpointSection()), {}, asynchronous=True)
            saver.save(built.model, built.optimizer, state)
            train(inputs, built)  # goes on while it is written, which must change nothing of what is written
            saver.wait()
            if FORMED.first:
                np.savez(root / f"{world}-{case}.npz", **whole)
                blocks = {t: len(column_blocks(built, t)) for t in TABLES}
                print(json.dumps({"case": f"{world}-{case}", "tensors": len(whole), "blocks": blocks}), flush=True)
            continue
        for source in sorted(root.glob("*.npz")):
            load(Checkpoints(source.with_suffix(""), CheckpointSection()).newest(), built.model, built.optimizer)
            found = gathered(built)
            if FORMED.first:
                wanted = expected(dict(np.load(source)), built)
                differ = sorted(n for n in wanted.keys() | found if not np.array_equal(wanted.get(n), found.get(n)))
                line = {"from": source.stem, "to": f"{world}-{case}", "of": len(wanted), "differ": differ}
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    FORMED = forming.form_ranks(load_config(sys.argv[2]).distributed)
    main(*sys.argv[1:])
    forming.leave_ranks()
