"""SMES: one pool of experts, of which a sample uses few, chosen for all tasks together (Zhang et al., KDD 2026).

Only the paper's abstract and notes of others were at hand: the equations below are this library's reading of them. T tasks, E
experts, z_t = W_t v, p_t = softmax(z_t):

1. For all tasks of a sample: s_e = sum over t of w_t p_t,e; S are the K_s experts with the largest s_e.
2. For each task: A_t are the K_a experts outside of S with the largest z_t,e. Of equal values the expert of the lower number is
   chosen, here and in 1.
3. Task t mixes S and A_t by the softmax of z_t over these alone.

An expert is computed once per sample, however many tasks chose it: at most K_s + T K_a experts. No choice is dropped. The
choice has no gradient; routers learn from the mixtures and from the load balance, which is added to the loss: a factor times
(E / K) sum over e of f_e p_e, with K = K_s + K_a, f_e the share of (sample, task) pairs that chose e, without gradient, and p_e
the mean of p_t,e over them, both over the global batch. It is 1 where choices or probabilities are even.

HoME's parts can be switched on: normalised experts (with the statistics of the samples that chose an expert), a feature gate in
front of the pool, and self gates: the softmax over A_t of a second router's scores (sigmoid for one expert) is added to the
weights.
"""

from typing import Any, Literal

import torch
import torch.distributed as dist
from pydantic import Field, model_validator

from home_dist.config.model import ModelOfGates
from home_dist.config.section import Count
from home_dist.experts import FeatureGate, MaskedGates, SelfGates, SparseBank, first_largest
from home_dist.layers.global_norm import several_ranks
from home_dist.models.anatomy import SHARED, Anatomy, part
from home_dist.models.base import MultiTaskModel
from home_dist.models.tasks import TaskGroups


class SmesSection(ModelOfGates):
    """One pool of experts of which each sample uses few (Zhang et al. 2026)."""

    kind: str = "smes"
    experts: Count = 16
    """E, experts of the pool."""
    shared_choices: int = Field(default=2, ge=0)
    """K_s, experts that are chosen for all tasks of a sample together."""
    task_choices: int = Field(default=1, ge=0)
    """K_a, further experts that each task chooses."""
    choice_weights: dict[str, float] = Field(default_factory=dict)
    """w_t: how much some tasks' probabilities count where experts are chosen for all tasks; 1 where none is given."""
    balance: float = Field(default=0.01, ge=0)
    """Factor of the load balance."""
    feature_gate: bool = False
    """HoME's feature gate in front of the pool."""
    feature_gates: Count = 2
    """L, low-rank gates in the feature gate."""
    feature_gate_rank: Count = 32
    """Upper bound of a low-rank gate's rank."""
    feature_gate_sigmoid: Literal["inside", "outside"] = "inside"
    """Whether the sigmoid is applied to each low-rank gate or to their weighted sum."""
    self_gate: bool = False
    """HoME's self gates, on the experts that the task chose for itself."""

    @model_validator(mode="after")
    def _choices_fit(self) -> "SmesSection":
        chosen = self.shared_choices + self.task_choices
        if not 1 <= chosen <= self.experts:
            raise ValueError(
                f"shared_choices + task_choices is {chosen}: choose at least 1 and at most experts = {self.experts} in all"
            )
        if self.self_gate and not self.task_choices:
            raise ValueError("self_gate needs experts that a task chooses for itself: task_choices of at least 1")
        if any(weight < 0 for weight in self.choice_weights.values()):
            raise ValueError("choice_weights must not be negative")
        return self

    def named_tasks(self) -> dict[str, tuple[str, ...]]:
        return {"choice_weights": tuple(self.choice_weights)}


class Smes(MultiTaskModel):
    section = SmesSection
    choice_weights: torch.Tensor

    def __init__(self, config: SmesSection, in_dim: int, tasks: TaskGroups):
        super().__init__()
        count = tasks.tasks
        self.out_dim, self.balance = config.expert_dim, config.balance
        self.shared_choices, self.task_choices = config.shared_choices, config.task_choices
        weights = [config.choice_weights.get(tasks.name(k), 1.0) for k in range(count)]
        self.register_buffer("choice_weights", torch.tensor(weights), persistent=False)
        everything = torch.ones(count, config.experts, dtype=torch.bool)
        self.gates = MaskedGates(in_dim, everything, *config.gate_layers)
        self.self_gates = SelfGates(in_dim, everything, *config.gate_layers) if config.self_gate else None
        self.feature_gate = None
        if config.feature_gate:
            rank = config.feature_gate_rank
            self.feature_gate = FeatureGate(1, in_dim, config.feature_gates, rank, config.feature_gate_sigmoid)
        widths = in_dim, config.expert_hidden, config.expert_dim
        per_sample = config.shared_choices + count * config.task_choices
        self.bank = SparseBank(config.experts, *widths, config.expert_norm, config.dropout, per_sample)
        self._load: torch.Tensor | None = None

    def forward(self, v: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """v: (B, F); mask: (B,). Returns (K, B, D)."""
        scores = self.gates.scores(v)
        probabilities = scores.softmax(-1)
        chosen = self._choose(scores.detach(), probabilities.detach())
        weights = scores.gather(2, chosen).softmax(-1)
        if self.self_gates is not None:
            weights = weights + self._self_weights(v, chosen)
        self._load = self._imbalance(probabilities, chosen, mask) if self.training and self.balance else None
        x = v if self.feature_gate is None else self.feature_gate(v)[0]
        return self.bank.of_chosen(x, chosen, weights, mask)

    def _choose(self, scores: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
        """scores, probabilities: (K, B, E). Returns experts (K, B, K_s + K_a): those of all tasks first."""
        joint = (probabilities * self.choice_weights.view(-1, 1, 1)).sum(0)
        shared = first_largest(joint, self.shared_choices).expand(len(scores), -1, -1)
        own = first_largest(scores.scatter(2, shared, -torch.inf), self.task_choices)
        return torch.cat([shared, own], 2)

    def _self_weights(self, v: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """(K, B, K_s + K_a), 0 for the experts of all tasks."""
        scores = self.self_gates.scores(v).gather(2, chosen[..., self.shared_choices :])  # type: ignore[union-attr]
        own = torch.sigmoid(scores) if self.task_choices == 1 else scores.softmax(-1)
        return torch.cat([own.new_zeros(*own.shape[:2], self.shared_choices), own], 2)

    def _imbalance(self, probabilities: torch.Tensor, chosen: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """This rank's part of the load balance (): the mean of all ranks' parts is that of the global batch."""
        tasks, samples, experts = probabilities.shape
        real = probabilities.new_ones(samples) if mask is None else mask.to(probabilities.dtype)
        counted = real.view(1, -1, 1).expand(chosen.shape).reshape(-1)
        load = probabilities.new_zeros(experts + 1).index_add(0, chosen.reshape(-1), counted)
        load[experts] = real.sum() * tasks
        ranks = 1
        if several_ranks():
            dist.all_reduce(load)
            ranks = dist.get_world_size()
        pairs = load[experts].clamp(min=1)
        mean = (probabilities * real.view(1, -1, 1)).sum((0, 1)) * ranks / pairs
        return experts / chosen.shape[2] * (load[:experts] / pairs * mean).sum()

    def anatomy(self, tasks: TaskGroups) -> Anatomy:
        owners = [(SHARED, self.bank.total)]
        return Anatomy(
            (part("", self.bank, owners, tasks.gates(), self.gates, self.self_gates, self.feature_gate, reads_features=True),)
        )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_load": None}  # a copy has no graph of its own

    def auxiliary(self) -> dict[str, torch.Tensor]:
        return {} if self._load is None else {"load_balance": self.balance * self._load}
