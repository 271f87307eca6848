"""The [model] section: one class per kind of multi-task model, told apart by `kind`.

Keys of one name mean the same in every kind, so that `--set model.kind=...` keeps them (see config.load_config).
"""

from collections.abc import Mapping
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from home_dist.config.section import Rate, Section, Widths

Count = Annotated[int, Field(ge=1)]


class _Model(Section):
    kind: str
    expert_hidden: Widths = (64,)
    """Hidden widths of an expert or trunk."""
    expert_dim: Count = 32
    """D, the width of an expert's or trunk's output, in every layer."""
    tower_hidden: Widths = (16,)
    dropout: Rate = 0.0
    """Dropout of the experts' outputs, in training."""

    def named_features(self) -> dict[str, tuple[str, ...]]:
        """By key: the features that the section names."""
        return {}

    def named_tasks(self) -> dict[str, tuple[str, ...]]:
        """By key: the tasks that the section names."""
        return {}


class ModelOfBanks(_Model):
    expert_norm: bool = False
    """Swish(BatchNorm(.)) experts as in HoME; otherwise classic ones with ReLU."""


class SingleTaskModel(ModelOfBanks):
    """One trunk and tower per task over shared embeddings. For own embeddings, see data.tasks."""

    kind: Literal["single_task"] = "single_task"


class SharedBottomModel(ModelOfBanks):
    """One trunk for all tasks (Caruana 1997)."""

    kind: Literal["shared_bottom"] = "shared_bottom"


class OmoeModel(ModelOfBanks):
    """One gate over experts, shared by all tasks (Ma et al. 2018)."""

    kind: Literal["omoe"] = "omoe"
    experts: Count = 8


class MmoeModel(ModelOfBanks):
    """One gate per task over shared experts (Ma et al. 2018)."""

    kind: Literal["mmoe"] = "mmoe"
    experts: Count = 8


class MlMmoeModel(ModelOfBanks):
    """MMoE in several layers."""

    kind: Literal["ml_mmoe"] = "ml_mmoe"
    experts: Count = 8
    """Experts of each layer."""
    layers: Count = 2


class CustomisedModel(ModelOfBanks):
    """Own experts per task beside shared ones (Tang et al. 2020), and parts of HoME's that can be had with them."""

    shared_experts: Count = 2
    """Of each layer."""
    task_experts: Count = 1
    """Experts of each task and layer."""
    feature_gate: bool = False
    """HoME's: the experts of each task, and the shared ones, read their input scaled to their needs."""
    self_gate: bool = False
    """HoME's: a residual path from a task's own experts to its state, and from the shared ones to the shared state."""
    feature_gates: Count = 2
    """L, low-rank gates in a feature gate."""
    feature_gate_rank: Count = 32
    """Upper bound of a low-rank gate's rank, which is F / L rounded up."""


class CgcModel(CustomisedModel):
    """One layer of own and shared experts (Tang et al. 2020)."""

    kind: Literal["cgc"] = "cgc"


class PleModel(CustomisedModel):
    """CGC in several layers (Tang et al. 2020)."""

    kind: Literal["ple"] = "ple"
    layers: Count = 2


class HomeModel(ModelOfBanks):
    """HoME (Wang et al. 2024). Each of its four parts can be switched off alone."""

    kind: Literal["home"] = "home"
    shared_experts: Count = 2
    group_experts: Count = 2
    task_experts: Count = 1
    expert_norm: bool = True
    """Swish(BatchNorm(.)) experts; otherwise classic ones with ReLU."""
    hierarchy_mask: bool = True
    """Gates see shared and own experts only; otherwise all of them."""
    feature_gate: bool = True
    self_gate: bool = True
    feature_gates: Count = 2
    """L, low-rank gates in a feature gate."""
    feature_gate_rank: Count = 32
    """Upper bound of a low-rank gate's rank, which is F / L rounded up."""
    feature_gate_sigmoid: Literal["inside", "outside"] = "inside"
    """Whether the sigmoid is applied to each low-rank gate or to their weighted sum."""
    gate_input: Literal["plain", "gated"] = "plain"
    """Whether the meta layer's gates read v or the feature-gated v of their group."""


class L2ConstrainedModel(ModelOfBanks):
    """One trunk per task, held together by a penalty on the distances of their weights (Duong et al. 2015)."""

    kind: Literal["l2_constrained"] = "l2_constrained"
    alpha: float = Field(default=1e-4, ge=0)
    """Factor of the penalty."""


class CrossStitchModel(ModelOfBanks):
    """One trunk per task, mixed linearly after each layer (Misra et al. 2016)."""

    kind: Literal["cross_stitch"] = "cross_stitch"
    stitch: Literal["layer", "unit"] = "layer"
    """One mixing matrix per layer, or one per unit of each layer."""
    stitch_self: float = Field(default=0.9, ge=0, le=1)
    """Weight that a task's own trunk starts with; the other trunks share the rest."""


class TensorFactorizationModel(_Model):
    """One trunk per task, whose weights are one tensor in Tucker form (Yang and Hospedales 2016)."""

    kind: Literal["tensor_factorization"] = "tensor_factorization"
    rank_in: Count = 32
    rank_out: Count = 32
    rank_tasks: Count = 4
    """Ranks along a layer's inputs, its outputs and the tasks; each at most as large as what it stands for."""


class AdattModel(ModelOfBanks):
    """Experts of tasks and shared ones, fused in each layer with a residual path from own experts (Li et al. 2023)."""

    kind: Literal["adatt"] = "adatt"
    shared_experts: int = Field(default=1, ge=0)
    """Shared experts of each layer; 0 gives AdaTT-sp."""
    task_experts: Count = 1
    """Experts of each task and layer."""
    layers: Count = 2


class PepnetModel(ModelOfBanks):
    """One trunk per task, whose inputs and units are scaled by gates that read chosen features (Chang et al. 2023)."""

    kind: Literal["pepnet"] = "pepnet"
    domain_features: tuple[str, ...] = ()
    """Features that tell domains (tabs, pages) apart: read by the gates of the feature vector. v is read in any case."""
    prior_features: tuple[str, ...] = ()
    """Features that tell users, items and authors apart: read by the gates of the trunks. v is read in any case."""
    gate_hidden: Count = 32
    """Hidden units of a gate."""

    def named_features(self) -> dict[str, tuple[str, ...]]:
        return {"domain_features": self.domain_features, "prior_features": self.prior_features}


class EsmmModel(ModelOfBanks):
    """One trunk per task; probabilities of tasks that follow on each other are multiplied (Ma et al. 2018b)."""

    kind: Literal["esmm"] = "esmm"
    after: dict[str, str] = Field(default_factory=dict)
    """Task -> the task without which it cannot happen, such as {buy = "click"}."""

    @model_validator(mode="after")
    def _without_circles(self) -> "EsmmModel":
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


ModelSection = (
    SingleTaskModel
    | SharedBottomModel
    | OmoeModel
    | MmoeModel
    | MlMmoeModel
    | CgcModel
    | PleModel
    | HomeModel
    | L2ConstrainedModel
    | CrossStitchModel
    | TensorFactorizationModel
    | AdattModel
    | PepnetModel
    | EsmmModel
)

KINDS: Mapping[str, type[Section]] = {c.model_fields["kind"].default: c for c in get_args(ModelSection)}
DEFAULT_KIND = "home"
