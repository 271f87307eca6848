"""Trains a multi-task model of others on TorchRec's tables and home_dist's reader, and prints how fast.

    torchrec_peers.py SYSTEM MODEL FOLDER BATCH STEPS WARM_UP THREADS CHECKOUT

SYSTEM is TorchEasyRec (MODEL mmoe or ple) or AdaTT (MODEL adatt); CHECKOUT is one of its repository. Of TorchEasyRec only the
modules of networks are loaded: the whole of it needs packages of its own that no package registry has. Tables and step are put
together as it does that: an EmbeddingBagCollection that TorchRec shards by itself, Adagrad by rows fused into its backward,
Adam on the rest, TorchRec's pipeline.
"""

import importlib
import sys
import types
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.models_peers import (  # noqa: E402
    DECAY,
    EXPERT,
    EXPERTS,
    LAYERS,
    LR,
    SHARED,
    SPECIFIC,
    TOWER,
    Mlp,
    arguments,
    timed,
    told_of,
)
from home_dist.config import load_config  # noqa: E402
from home_dist.data.batch import Batch  # noqa: E402
from home_dist.data.inputs import open_inputs  # noqa: E402
from home_dist.distributed.ranks import form_ranks  # noqa: E402
from home_dist.embeddings.collections import bag_collection, initialise  # noqa: E402
from home_dist.schema import load_schema  # noqa: E402

TABLE_LR = 0.02


class EasyRec(nn.Module):
    """TorchEasyRec's MMoE or PLE: (B, F) -> a logit per task, (B, K)."""

    def __init__(self, checkout: Path, model: str, width: int, tasks: int):
        super().__init__()
        _namespace("tzrec", checkout / "tzrec")
        of = importlib.import_module
        expert = {"hidden_units": EXPERT, "use_bn": True}
        self.nets = nn.ModuleList()
        if model == "mmoe":
            self.nets.append(of("tzrec.modules.mmoe").MMoE(width, expert, EXPERTS, tasks))
        else:
            inputs, shared = [width] * tasks, width
            for layer in range(LAYERS):
                last = layer == LAYERS - 1
                net = of("tzrec.modules.extraction_net").ExtractionNet(
                    inputs, shared, "", SHARED, SPECIFIC, expert, expert, final_flag=last
                )
                self.nets.append(net)
                inputs, shared = net.output_dim()[:-1], net.output_dim()[-1]
        tower = of("tzrec.modules.task_tower").TaskTower
        mlp = {"hidden_units": TOWER, "use_bn": True}
        self.towers = nn.ModuleList(tower(EXPERT[-1], 1, mlp=mlp) for _ in range(tasks))
        self.ple = model == "ple"

    def forward(self, v: torch.Tensor) -> torch.Tensor:
        if not self.ple:
            states: Sequence[torch.Tensor] = self.nets[0](v)
        else:
            states, shared = [v] * len(self.towers), v
            for net in self.nets:
                states, shared = net(states, shared)
        return torch.cat([tower(x) for tower, x in zip(self.towers, states, strict=True)], 1)


class AdaTT(nn.Module):
    """One layer of AdaTT-sp by its authors, an expert per task, and towers as elsewhere: (B, F) -> (B, K)."""

    def __init__(self, checkout: Path, model: str, width: int, tasks: int):
        super().__init__()
        sys.path.insert(0, str(checkout))
        self.net = importlib.import_module("mtl_lib").AdaTTSp(width, [EXPERT], tasks, 1)
        self.towers = nn.ModuleList(nn.Sequential(Mlp(EXPERT[-1], TOWER), nn.Linear(TOWER[-1], 1)) for _ in range(tasks))

    def forward(self, v: torch.Tensor) -> torch.Tensor:
        states = self.net(v.unsqueeze(1).expand(-1, len(self.towers), -1))
        return torch.cat([tower(states[:, i]) for i, tower in enumerate(self.towers)], 1)


class Network(nn.Module):
    def __init__(self, bags: nn.Module, head: nn.Module):
        super().__init__()
        self.bags, self.head = bags, head

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.head(self.bags(batch.bags).values())
        return nn.functional.binary_cross_entropy_with_logits(logits, batch.labels), logits.detach()


SYSTEMS = {"TorchEasyRec": EasyRec, "AdaTT": AdaTT}


def _namespace(name: str, folder: Path) -> None:
    """A package without its __init__.py, which would import all of its parts."""
    package = types.ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package


def train(system: str, model: str, folder: Path, steps: int, warm_up: int, threads: int, checkout: Path) -> float:
    """Seconds of `steps` steps."""
    settings = [f"distributed.threads={threads}", "embedding.replicate_rows=0"]
    config = load_config(folder / "run.toml", settings)
    ranks = form_ranks(config.distributed)
    inputs = open_inputs(config, load_schema(config.schema_path()), ("train",))
    bags = bag_collection(inputs.layout, torch.device("meta"))
    width = sum(i.table.dim for i in inputs.layout.features)
    network = Network(bags, SYSTEMS[system](checkout, model, width, len(inputs.schema.task)))
    apply_optimizer_in_backward(RowWiseAdagrad, network.bags.parameters(), {"lr": TABLE_LR})
    sharded = DistributedModelParallel(network, device=ranks.device)
    initialise(sharded, config.embedding.init_std, config.train.seed)
    dense = dict(in_backward_optimizer_filter(sharded.named_parameters()))
    adam = KeyedOptimizerWrapper(dense, lambda p: torch.optim.Adam(p, lr=LR, weight_decay=DECAY))
    optimizer = CombinedOptimizer([sharded.fused_optimizer, adam])
    pipeline = TrainPipelineSparseDist(sharded, optimizer, ranks.device, execute_all_batches=True)
    batches = inputs.training_reader(ranks).epochs(0, 10**9)
    sharded.train()
    return timed(lambda: pipeline.progress(batches), steps, warm_up)


def main() -> None:
    chosen = arguments(__doc__, SYSTEMS, ["mmoe", "ple", "adatt"])
    checkout = chosen.checkout.resolve()
    seconds = train(chosen.system, chosen.model, chosen.folder, chosen.steps, chosen.warm_up, chosen.threads, checkout)
    print(told_of(chosen, seconds))


if __name__ == "__main__":
    main()
