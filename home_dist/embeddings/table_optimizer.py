"""The optimizer of sharded tables, which FBGEMM fuses into their backward."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from home_dist.config import EmbeddingSection

# TorchRec maps these classes to FBGEMM's fused optimizers.
_KINDS: dict[str, type[torch.optim.Optimizer]] = {
    "row_wise_adagrad": RowWiseAdagrad,
    "adagrad": torch.optim.Adagrad,
    "sgd": torch.optim.SGD,
}


def table_optimizer(config: EmbeddingSection) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """Class and settings of the tables' optimizer."""
    return _KINDS[config.optimizer], {"lr": config.lr}


def fuse_table_optimizer(parameters: Sequence[nn.Parameter], config: EmbeddingSection) -> None:
    """Fuses the optimizer into the backward of unsharded tables. Call it before sharding."""
    if parameters:
        kind, settings = table_optimizer(config)
        apply_optimizer_in_backward(kind, parameters, settings)
