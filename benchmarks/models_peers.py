"""Trains a peer's model on the Parquet files of benchmarks/peers.py, and prints how fast.

    models_peers.py SYSTEM MODEL FOLDER BATCH STEPS WARM_UP THREADS [CHECKOUT]

"plain" is what a user writes in torch: an nn.EmbeddingBag per feature, experts and towers in ModuleLists, a DataLoader over
pyarrow's batches. "torch-rechub" and "FuxiCTR" are started by the interpreter of an environment that has what they need and not
home_dist; FuxiCTR's multi-task models are in its repository alone, of which CHECKOUT is one. All take Adam.
"""

import argparse
import functools
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.dataset as pd
import torch
from torch import nn

EXPERT, TOWER, DIM = [256, 128], [64], 16
EXPERTS, SHARED, SPECIFIC, LAYERS = 8, 2, 1, 2
LR, DECAY = 1e-3, 1e-5


def told(folder: Path) -> dict[str, list]:
    """features: [name, rows]; tasks: names"""
    return json.loads((folder / "about.json").read_text())


class Mlp(nn.Sequential):
    def __init__(self, width: int, dims: list[int]):
        layers: list[nn.Module] = []
        for dim in dims:
            layers += [nn.Linear(width, dim), nn.BatchNorm1d(dim), nn.ReLU()]
            width = dim
        super().__init__(*layers)


class Mixture(nn.Module):
    """Gates over experts: each sees those of its input, and shared ones; a last one, where wanted, sees all."""

    def __init__(self, width: int, inputs: int, own: int, shared: int, gates: int, last: bool = False):
        super().__init__()
        self.own = nn.ModuleList(nn.ModuleList(Mlp(width, EXPERT) for _ in range(own)) for _ in range(inputs))
        self.shared = nn.ModuleList(Mlp(width, EXPERT) for _ in range(shared))
        self.gates = nn.ModuleList(nn.Linear(width, own + shared) for _ in range(gates))
        self.last = nn.Linear(width, own * inputs + shared) if last else None

    def forward(self, xs: list[torch.Tensor]) -> list[torch.Tensor]:
        shared = [expert(xs[-1]) for expert in self.shared]
        own = [[expert(x) for expert in experts] for experts, x in zip(self.own, xs, strict=False)]
        outs = []
        for i, gate in enumerate(self.gates):
            x = xs[min(i, len(xs) - 1)]
            seen = torch.stack([*(own[i] if own else []), *shared], 1)
            outs.append((gate(x).softmax(-1).unsqueeze(-1) * seen).sum(1))
        if self.last is not None:
            seen = torch.stack([*(e for experts in own for e in experts), *shared], 1)
            outs.append((self.last(xs[-1]).softmax(-1).unsqueeze(-1) * seen).sum(1))
        return outs


class Plain(nn.Module):
    def __init__(self, model: str, features: list, groups: list[str]):
        """groups: of each task."""
        super().__init__()
        tasks = len(groups)
        self.tables = nn.ModuleList(nn.EmbeddingBag(rows, DIM, mode="sum") for _, rows in features)
        width = DIM * len(features)
        if model == "mmoe":
            self.layers = nn.ModuleList([Mixture(width, 0, 0, EXPERTS, tasks)])
        elif model == "home":
            self.layers = nn.ModuleList([Home(width, groups)])
        else:
            widths = [width] + [EXPERT[-1]] * (LAYERS - 1)
            self.layers = nn.ModuleList(
                Mixture(w, tasks, SPECIFIC, SHARED, tasks, last=i < LAYERS - 1) for i, w in enumerate(widths)
            )
        self.ple = model == "ple"
        self.towers = nn.ModuleList(nn.Sequential(Mlp(EXPERT[-1], TOWER), nn.Linear(TOWER[-1], 1)) for _ in range(tasks))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = torch.cat([table(ids[:, i : i + 1]) for i, table in enumerate(self.tables)], 1)
        xs = [x] * (len(self.towers) + 1 if self.ple else 1)
        for layer in self.layers:
            xs = layer(xs)
        return torch.cat([tower(x) for tower, x in zip(self.towers, xs, strict=False)], 1)


class Home(nn.Module):
    """As lists of modules, which benchmarks/expert_bank.py measures against, too."""

    def __init__(self, width: int, groups: list[str]):
        super().__init__()
        from benchmarks.expert_bank_peers import HomeOfModules, home
        from home_dist.models import TaskGroups

        names = list(dict.fromkeys(groups))
        tasks = TaskGroups(tuple(names.index(g) for g in groups))
        self.model = HomeOfModules(home(2, width, EXPERT[0], EXPERT[1], tasks), tasks)

    def forward(self, xs: list[torch.Tensor]) -> list[torch.Tensor]:
        return list(self.model(xs[0]).unbind(0))


class Rows(torch.utils.data.IterableDataset):
    def __init__(self, folder: Path, names: list[str], tasks: list[str], batch: int):
        self.folder, self.names, self.tasks, self.batch = folder, names, tasks, batch

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            for part in pd.dataset(self.folder / "train").to_batches(columns=self.names + self.tasks, batch_size=self.batch):
                if part.num_rows == self.batch:
                    columns = [torch.from_numpy(part[n].to_numpy(zero_copy_only=False).copy()) for n in part.schema.names]
                    ids = torch.stack(columns[: len(self.names)], 1).long()
                    yield ids, torch.stack(columns[len(self.names) :], 1).float()


def plain_step(
    network: nn.Module, folder: Path, batch: int, forward: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> Callable[[], None]:
    """A step of training on the next batch. forward: ids to logits, where it is not the network itself that is called."""
    about = told(folder)
    names, tasks = [n for n, _ in about["features"]], about["tasks"]
    optimizer = torch.optim.Adam(network.parameters(), lr=LR, weight_decay=DECAY)
    loader = iter(torch.utils.data.DataLoader(Rows(folder, names, tasks, batch), batch_size=None, num_workers=1))
    loss_of, called = nn.BCEWithLogitsLoss(), network if forward is None else forward

    def step() -> None:
        ids, labels = next(loader)
        optimizer.zero_grad()
        loss_of(called(ids), labels).backward()
        optimizer.step()

    return step


def plain_network(model: str, folder: Path) -> Plain:
    about = told(folder)
    return Plain(model, about["features"], about["groups"])


def plain(model: str, folder: Path, batch: int, steps: int, warm_up: int) -> float:
    return timed(plain_step(plain_network(model, folder), folder, batch), steps, warm_up)


def peak_memory() -> int:
    """Bytes, of this program alone: getrusage's is also that of the process which started this one."""
    return next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))


def timed(step: Callable[[], Any], steps: int, warm_up: int) -> float:
    for _ in range(warm_up):
        step()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    return time.perf_counter() - began


def fuxictr(checkout: Path, model: str, folder: Path, batch: int, steps: int, warm_up: int) -> float:
    """The checkout's own package is taken, not an installed one: the models are written for it. Shuffles a buffer of rows."""
    name = {"mmoe": "MMoE", "ple": "PLE"}[model]
    sys.path[:0] = [str(checkout), str(checkout / "model_zoo" / "multitask" / name)]
    import src
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.dataloaders.parquet_block_dataloader import ParquetBlockDataLoader

    about = told(folder)
    tasks = about["tasks"]
    features = FeatureMap("benchmark", str(folder))
    features.features.update({n: {"type": "categorical", "source": "", "vocab_size": rows} for n, rows in about["features"]})
    features.labels, features.num_fields, features.total_features = tasks, len(about["features"]), len(about["features"])
    features.set_column_index()
    experts = {"num_experts": EXPERTS} if model == "mmoe" else {}
    if model == "ple":
        experts = {"num_layers": LAYERS, "num_shared_experts": SHARED, "num_specific_experts": SPECIFIC}
    network = getattr(src, name)(
        features,
        task=["binary_classification"] * len(tasks),
        num_tasks=len(tasks),
        learning_rate=LR,
        embedding_dim=DIM,
        expert_hidden_units=EXPERT,
        gate_hidden_units=[],
        tower_hidden_units=TOWER,
        batch_norm=True,
        optimizer="adam",
        loss=["binary_crossentropy"] * len(tasks),
        metrics=["AUC"],
        verbose=0,
        model_root=str(folder),
        **experts,
    )
    network._max_gradient_norm = 10.0  # what its fit() sets by default
    loader = ParquetBlockDataLoader(features, str(folder / "train"), batch_size=batch, shuffle=True, num_workers=1)
    batches = (one for _ in itertools.count() for one in loader if len(one[tasks[0]]) == batch)
    network.train()
    return timed(lambda: network.train_step(next(batches)).item(), steps, warm_up)


def rechub(model: str, folder: Path, batch: int, steps: int, warm_up: int) -> float:
    from torch_rechub.basic.features import SparseFeature
    from torch_rechub.models.multi_task import MMOE, PLE
    from torch_rechub.trainers import MTLTrainer
    from torch_rechub.utils.data import DataGenerator

    about = told(folder)
    names, tasks = [n for n, _ in about["features"]], about["tasks"]
    features = [SparseFeature(name, vocab_size=rows, embed_dim=DIM) for name, rows in about["features"]]
    kinds = ["classification"] * len(tasks)
    expert, towers = {"dims": EXPERT}, [{"dims": TOWER}] * len(tasks)
    if model == "mmoe":
        network = MMOE(features, kinds, EXPERTS, expert_params=expert, tower_params_list=towers)
    else:
        network = PLE(features, kinds, LAYERS, SPECIFIC, SHARED, expert_params=expert, tower_params_list=towers)
    trainer = MTLTrainer(network, kinds, optimizer_params={"lr": LR, "weight_decay": DECAY})

    def loader(first: int, count: int) -> Iterable:
        rows = table.slice(first, count * batch)
        x = {n: rows[n].to_numpy() for n in names}
        y = torch.stack([torch.from_numpy(rows[t].to_numpy().copy()) for t in tasks], 1).numpy()
        return DataGenerator(x, y).generate_dataloader(x_val=x, y_val=y, x_test=x, y_test=y, batch_size=batch)[0]

    table = pd.dataset(folder / "train").head((warm_up + steps) * batch, columns=names + tasks)
    steps_of = min(steps, table.num_rows // batch - warm_up)
    sys.stdout = sys.stderr  # the trainer prints
    trainer.train_one_epoch(loader(0, warm_up))
    timed = loader(warm_up * batch, steps_of)
    began = time.perf_counter()
    trainer.train_one_epoch(timed)
    sys.stdout = sys.__stdout__
    return (time.perf_counter() - began) * steps / steps_of


def arguments(description: str | None, systems: Iterable[str], models: Iterable[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", choices=systems)
    parser.add_argument("model", choices=models)
    parser.add_argument("folder", type=Path)
    for name in ("batch", "steps", "warm_up", "threads"):
        parser.add_argument(name, type=int)
    parser.add_argument("checkout", nargs="?", type=Path, help="of the system's repository, where it is read from one")
    return parser.parse_args()


def told_of(chosen: argparse.Namespace, seconds: float, **more: float) -> str:
    """What benchmarks/peers.py reads. more: further figures."""
    rate = chosen.steps * chosen.batch / seconds
    return json.dumps({"samples_per_second": rate, "peak_memory_bytes": peak_memory(), **more})


def main() -> None:
    systems = {"plain": plain, "torch-rechub": rechub, "FuxiCTR": fuxictr}
    chosen = arguments(__doc__, systems, ["mmoe", "ple", "home"])
    if chosen.system == "FuxiCTR":
        systems["FuxiCTR"] = functools.partial(fuxictr, chosen.checkout)
    torch.set_num_threads(chosen.threads)
    seconds = systems[chosen.system](chosen.model, chosen.folder, chosen.batch, chosen.steps, chosen.warm_up)
    print(told_of(chosen, seconds))


if __name__ == "__main__":
    main()
