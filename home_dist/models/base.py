"""The interface of a multi-task model, and functions with which several models build their parts."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from home_dist.config.model import ModelOfBanks, ModelOfExperts, ModelOfTaskExperts, ModelSection
from home_dist.experts import ExpertBank
from home_dist.layers.axis_names import Axes, Names
from home_dist.layers.own_class import take_docstring
from home_dist.models.anatomy import Anatomy, Owner, part
from home_dist.models.tasks import TaskGroups


def names_of_tasks(tasks: TaskGroups) -> Names:
    return tuple((f"task {name}", 0) for name in tasks.names)


class FeatureColumns(dict[str, Sequence[int]]):
    """By feature, its columns in v. sets: where tables have a set of columns per task (`ModelSection.table_sets`), of each set
    its columns in v, the shared set first; else empty."""

    def __init__(self, columns: Mapping[str, Sequence[int]], sets: Sequence[Sequence[int]] = ()):
        super().__init__(columns)
        self.sets = sets


class MultiTaskModel(nn.Module):
    """Feature vector -> one state per task; towers turn states into logits."""

    section: ClassVar[type[ModelSection]]
    """The `[model]` section that the model reads."""
    out_dim: int
    """D, the width of a task's state."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        take_docstring(cls)

    @classmethod
    def build(cls, config: Any, in_dim: int, tasks: TaskGroups, columns: Mapping[str, Sequence[int]]) -> "MultiTaskModel":
        """config: of the class `section`; in_dim: F; columns: by feature, its columns in v, for models that treat some features
        apart."""
        return cls(config, in_dim, tasks)

    def forward(self, v: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """v: (B, F); mask: (B,), real samples, by default all. Returns (K, B, D)."""
        raise NotImplementedError

    def joint(self, logits: torch.Tensor) -> torch.Tensor:
        """The towers' logits (B, K) -> the tasks' logits (B, K); by default the same."""
        return logits

    def tower_rates(self, rates: torch.Tensor) -> torch.Tensor:
        """The tasks' base rates (K,) -> the rates (K,) at which the towers' biases start."""
        return rates

    def anatomy(self, tasks: TaskGroups) -> Anatomy:
        """The model's experts and gates by name."""
        return Anatomy()

    def axes(self, tasks: TaskGroups, columns: Names) -> dict[str, Axes]:
        """Axes of the model's tensors outside its anatomy's parts, by name in its state dict. columns: names (F,) of the
        feature vector's columns. See home_dist/axes.py."""
        return {}

    def auxiliary(self) -> dict[str, torch.Tensor]:
        """The model's auxiliary losses (), by name, to be added to the tasks' losses."""
        return {}


def bank_of(
    config: ModelOfBanks, experts: Sequence[int], in_dim: int, layer: int = 0, owners: Sequence[tuple[Owner, int]] = ()
) -> ExpertBank:
    """A bank of experts as `[model]` describes those of a layer. experts: number of experts that read input i; owners: (owner,
    number of its experts) in the same order, where tasks' own experts may have other widths."""
    if not isinstance(config, ModelOfExperts):
        return ExpertBank(experts, in_dim, config.expert_hidden, config.expert_dim, config.expert_norm, config.dropout)
    hidden, own = config.hidden_of(layer), config.task_hidden if isinstance(config, ModelOfTaskExperts) else {}
    of_experts = [own.get(owner.name, hidden) if owner.kind == "task" else hidden for owner, n in owners for _ in range(n)]
    sizes = in_dim, [max(widths) for widths in zip(hidden, *of_experts, strict=True)], config.dim_of(layer)
    inside = config.hidden_norm, config.hidden_dropout
    bank = ExpertBank(experts, *sizes, config.expert_norm, config.dropout, None, *inside)
    bank.narrow(of_experts)
    return bank


def trunk_layers(config: ModelOfBanks, tasks: int, in_dim: int) -> nn.ModuleList:
    """One trunk per task, as a list of layers, for models that change states between layers. Each layer is a bank of K experts;
    the first layer reads one input (B, F), later ones read one input per task."""
    widths = [in_dim, *config.expert_hidden, config.expert_dim]
    layers = nn.ModuleList()
    for n, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
        last = n == len(widths) - 2
        experts = [1] * tasks if n else [tasks]
        layers.append(ExpertBank(experts, fan_in, [], fan_out, config.expert_norm, config.dropout if last else 0.0))
    return layers


def trunk_anatomy(layers: Iterable[nn.Module], tasks: TaskGroups) -> Anatomy:
    """Anatomy of a model whose layers have one expert, or trunk, per task and no gate."""
    banks = [layer for layer in layers if isinstance(layer, ExpertBank)]
    names = [f"layer {n}" for n in range(len(banks))] if len(banks) > 1 else [""]
    return Anatomy(tuple(part(name, bank, tasks.owners()) for name, bank in zip(names, banks, strict=True)))
