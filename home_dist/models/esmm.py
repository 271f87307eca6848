"""ESMM, entire space multi-task model (Ma et al. 2018b): multiplies the probabilities of consecutive tasks.

With `after = {buy = "click"}` the towers of click and buy compute p(click) and p(buy | click). The model trains and predicts
p(click) and p(buy) = p(click) p(buy | click), both over all samples: no task trains on clicked samples alone. Chains may be
longer. A task's label must be 0 wherever the label of the task before it is 0. Tasks outside of chains are independent.

Products are computed as sums of logarithms, and 1 - p q as (1 - p) + p (1 - q), so that no logit overflows.
"""

import torch
from pydantic import Field, model_validator
from torch.nn.functional import logsigmoid

from home_dist.config.model import ModelOfBanks
from home_dist.models.anatomy import Anatomy
from home_dist.models.base import MultiTaskModel, bank_of, trunk_anatomy
from home_dist.models.tasks import TaskGroups


class EsmmSection(ModelOfBanks):
    """One trunk per task; probabilities of consecutive tasks are multiplied (Ma et al. 2018b)."""

    kind: str = "esmm"
    after: dict[str, str] = Field(default_factory=dict)
    """Task -> the task without which it cannot happen, such as {buy = "click"}."""

    @model_validator(mode="after")
    def _without_circles(self) -> "EsmmSection":
        for start in self.after:
            task, passed = start, {start}
            while task in self.after:
                task = self.after[task]
                if task in passed:
                    raise ValueError(f"after: task {task!r} comes after itself")
                passed.add(task)
        return self

    def named_tasks(self) -> dict[str, tuple[str, ...]]:
        return {"after": (*self.after, *self.after.values())}


class Esmm(MultiTaskModel):
    section = EsmmSection

    def __init__(self, config: EsmmSection, in_dim: int, tasks: TaskGroups):
        super().__init__()
        self.out_dim = config.expert_dim
        self.trunks = bank_of(config, [tasks.tasks], in_dim)
        if config.after and not tasks.names:
            raise ValueError("tasks need names for `after` to name them")
        before = [tasks.names.index(config.after[n]) if n in config.after else None for n in tasks.names]
        self._before = before or [None] * tasks.tasks

    def forward(self, v: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """v: (B, F); mask: (B,). Returns (K, B, D)."""
        return self.trunks([v], mask)

    def anatomy(self, tasks: TaskGroups) -> Anatomy:
        return trunk_anatomy([self.trunks], tasks)

    def joint(self, logits: torch.Tensor) -> torch.Tensor:
        if self._before == [None] * len(self._before):
            return logits
        by_task: dict[int, torch.Tensor] = {}

        def joint_logit(task: int) -> torch.Tensor:
            if task not in by_task:
                before, conditional = self._before[task], logits[:, task]
                by_task[task] = conditional if before is None else _product(joint_logit(before), conditional)
            return by_task[task]

        return torch.stack([joint_logit(task) for task in range(len(self._before))], 1)

    def tower_rates(self, rates: torch.Tensor) -> torch.Tensor:
        before = torch.stack([rates.new_ones(()) if b is None else rates[b] for b in self._before])
        return (rates / before).clamp(max=0.99)


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Logit of sigmoid(a) sigmoid(b)."""
    return logsigmoid(a) + logsigmoid(b) - torch.logaddexp(logsigmoid(-a), logsigmoid(a) + logsigmoid(-b))
