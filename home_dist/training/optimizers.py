"""Optimizers: the tables' (embeddings/table_optimizer.py), AdamW for the rest, one schedule for both."""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torchrec.distributed import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from home_dist.config import RunConfig, TrainSection
from home_dist.embeddings.table_optimizer import table_optimizer
from home_dist.experts.share import Share, held_apart
from home_dist.layers.step_check import StepCheck


def build_optimizer(model: DistributedModelParallel, config: RunConfig, check: StepCheck | None = None) -> CombinedOptimizer:
    """Optimizer of all parameters of the sharded model: TorchRec's fused one and up to four more, in one state dict.

    The fused optimizer leaves out data-parallel tables, whose gradients are all-reduced: they get the optimizer "tables".
    """
    groups: dict[str, dict[str, nn.Parameter]] = {"tables": {}, "replicated": {}, "matrices": {}, "vectors": {}}
    for name, parameter in in_backward_optimizer_filter(model.named_parameters()):
        groups[_group(name, parameter)][name] = parameter
    decay = {"replicated": config.embedding.replicated_weight_decay, "matrices": config.train.weight_decay, "vectors": 0.0}
    parts: list[tuple[str, KeyedOptimizer]] = []
    for group, parameters in groups.items():
        if parameters and group == "tables":
            kind, settings = table_optimizer(config.embedding)
            parts.append((group, KeyedOptimizerWrapper(parameters, lambda p, k=kind, s=settings: k(p, **s))))
        elif parameters:
            wrapped = KeyedOptimizerWrapper(
                parameters, lambda p, d=decay[group]: torch.optim.AdamW(p, lr=config.train.lr, weight_decay=d, fused=True)
            )
            parts.append((group, wrapped))
    dense = DenseOptimizer(parts, config.train.accumulate, config.train.clip_norm, check, held_apart(model))
    return CombinedOptimizer([("fused", model.fused_optimizer), ("dense", dense)])


@torch.no_grad()
def create_state(optimizer: CombinedOptimizer) -> None:
    """Creates the state that dense optimizers otherwise create in their first step: zeros, with counters of 0. Changes no
    parameters."""
    (dense,) = (o for name, o in optimizer.optimizers if name == "dense")
    for _, part in dense.optimizers:
        rates = [group["lr"] for group in part.param_groups]
        for group in part.param_groups:
            group["lr"] = 0.0  # neither decays nor updates
        part.init_state()  # a step of zero gradients
        for group, rate in zip(part.param_groups, rates, strict=True):
            group["lr"] = rate
        part.zero_grad(set_to_none=True)
        for state in part.state.values():
            if "step" in state:
                state["step"].zero_()


class DenseOptimizer(CombinedOptimizer):
    """Updates by the mean gradient of `accumulate` backwards, clipped to norm `clip_norm`.

    TorchRec's wrappers for this keep the state dict of the time when they were made: checkpoints would miss AdamW's state.
    """

    def __init__(
        self,
        parts: list[tuple[str, KeyedOptimizer]],
        accumulate: int,
        clip_norm: float | None,
        check: StepCheck | None = None,
        apart: Mapping[nn.Parameter, Share] | None = None,
    ):
        """check: says which updates to leave out. apart: parameters of which each rank holds a share."""
        super().__init__(parts)
        self.accumulate, self.clip_norm, self.check, self._apart = accumulate, clip_norm, check, apart or {}

    def step(self, closure: Any = None) -> None:
        refused = self.check.refuses_update if self.check is not None else False
        if refused is True:
            return
        if isinstance(refused, torch.Tensor):
            for _, part in self.optimizers:
                # By found_inf torch's fused AdamW skips a step on the device. Other optimizers get zero gradients, which change
                # nothing.
                part._optimizer.found_inf = refused
        parameters = [p for p in self.params.values() if p.grad is not None]
        if parameters and self.accumulate > 1:
            torch._foreach_div_([p.grad for p in parameters], float(self.accumulate))
        if parameters and self.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, self._norm(parameters))
        super().step(closure)

    def _norm(self, parameters: list[nn.Parameter]) -> torch.Tensor:
        """(), the norm of all gradients, also of the shares that other ranks hold. The same on all ranks."""
        alike = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None and p not in self._apart])
        if not self._apart:
            return alike
        squares = torch.zeros_like(alike)
        for parameter, share in self._apart.items():
            if parameter.grad is not None:
                squares += parameter.grad.square().sum() / share.copies.count
        dist.all_reduce(squares)
        return (alike.square() + squares).sqrt()


def _group(name: str, parameter: nn.Parameter) -> str:
    if ".embedding_bags." in f".{name}" or ".embeddings." in f".{name}":
        return "tables"
    if ".replicated." in name:
        return "replicated"
    # A bank's biases and normalisation are (E, D), so that only their names tell them from matrices. Cross-stitch's mixing
    # starts near the identity; decay to zero would silence the trunks.
    matrix = parameter.dim() >= 2 and not any(
        part in name for part in (".biases.", ".norm.", ".hidden_norms.", ".bias", ".mixing.")
    )
    return "matrices" if matrix else "vectors"


class Schedule:
    """Learning rates of `steps` steps: linear warm-up, then the configured decay to zero, or none."""

    def __init__(self, optimizer: CombinedOptimizer, config: TrainSection, steps: int):
        self.optimizer, self.config, self.steps = optimizer, config, steps
        self._base = [group["lr"] for group in optimizer.param_groups]

    def factor(self, step: int) -> float:
        """Factor of the base rate at `step`, counted from 0."""
        warmup = self.config.warmup_steps
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup) / max(1, self.steps - warmup)
        match self.config.decay:
            case "linear":
                return max(0.0, 1 - done)
            case "cosine":
                return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
            case _:
                return 1.0

    def set(self, step: int) -> float:
        """Sets all rates for `step`; returns the dense parameters' rate."""
        factor = self.factor(step)
        for group, base in zip(self.optimizer.param_groups, self._base, strict=True):
            group["lr"] = base * factor
        return self.config.lr * factor
