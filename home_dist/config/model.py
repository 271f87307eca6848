"""The [model] section: keys that all kinds of multi-task models have, and the table of kinds.

Each kind has its own section, in its model's file. A key means the same in every kind, so that `--set model.kind=...` keeps it
(see load.load_config).
"""

from typing import Annotated

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from home_dist.config.kinds import Kinds
from home_dist.config.section import Count, Rate, Section, Widths, refuse_idle


class ModelSection(Section):
    kind: str
    """The kind of model, or package.module:Class of your own."""
    expert_hidden: Widths = (64,)
    """Hidden widths of an expert or trunk."""
    expert_dim: Count = 32
    """D, the width of an expert's or trunk's output, in every layer."""
    tower_hidden: Widths = (16,)
    """Hidden widths of the tasks' towers."""
    towers: dict[str, Widths] = Field(default_factory=dict)
    """Hidden widths of some tasks' towers, where these differ from tower_hidden."""
    dropout: Rate = 0.0
    """Dropout of the experts' outputs, in training."""

    def table_sets(self, tasks: int) -> int:
        """How many vectors the rows of tables hold, side by side: 1, or one that all tasks share and one per task."""
        return 1

    def named_features(self) -> dict[str, tuple[str, ...]]:
        """By key: the features that the section names."""
        return {}

    def named_tasks(self) -> dict[str, tuple[str, ...]]:
        """By key: the tasks that the section names."""
        return {}


class ModelOfBanks(ModelSection):
    expert_norm: bool = False
    """Experts with Swish(BatchNorm(.)), as in HoME; else classic experts with ReLU."""


class ModelOfGates(ModelOfBanks):
    gate_hidden: Widths = ()
    """Hidden widths of a gate, with ReLU; without, a gate is one matrix. HoME's self gates have the same."""
    gate_bias: bool = False
    """Whether gates add a bias per expert to their scores."""

    @property
    def gate_layers(self) -> tuple[Widths, bool]:
        return self.gate_hidden, self.gate_bias


class ModelOfExperts(ModelOfGates):
    hidden_norm: bool = False
    """Batch normalisation of the experts' hidden layers, before their ReLU, over the global batch."""
    hidden_dropout: Rate = 0.0
    """Dropout of the experts' hidden layers, in training."""

    @model_validator(mode="after")
    def _has_hidden_layers(self) -> "ModelOfExperts":
        if not any(getattr(self, "layer_hidden", ()) or [self.expert_hidden]):
            reads = {"hidden_norm": False, "hidden_dropout": False}
            refuse_idle(self, reads, "experts without hidden layers")
        return self

    def hidden_of(self, layer: int) -> Widths:
        """Hidden widths of the experts of a layer, counted from 0."""
        return self.expert_hidden

    def dim_of(self, layer: int) -> int:
        """D of a layer."""
        return self.expert_dim


class ModelOfLayers(ModelOfExperts):
    layer_hidden: tuple[Widths, ...] = ()
    """Hidden widths of the experts of each layer, in place of expert_hidden; one entry per layer (HoME has two)."""
    layer_dims: Widths = ()
    """Width of the experts' outputs of each layer, in place of expert_dim."""

    def depth(self) -> int:
        """How many layers of experts there are."""
        return int(self.layers)  # type: ignore[attr-defined]

    def hidden_of(self, layer: int) -> Widths:
        return self.layer_hidden[layer] if self.layer_hidden else self.expert_hidden

    def dim_of(self, layer: int) -> int:
        return self.layer_dims[layer] if self.layer_dims else self.expert_dim

    @property
    def last_dim(self) -> int:
        return self.dim_of(self.depth() - 1)

    @model_validator(mode="after")
    def _one_entry_per_layer(self) -> "ModelOfLayers":
        for key, entries in (("layer_hidden", self.layer_hidden), ("layer_dims", self.layer_dims)):
            if entries and len(entries) != self.depth():
                raise ValueError(
                    f"{key} has {len(entries)} entries, and kind {self.kind} {self.depth()} layers: give one for each"
                )
        return self


class ModelOfTaskExperts(ModelOfExperts):
    task_hidden: dict[str, Widths] = Field(default_factory=dict)
    """Hidden widths of some tasks' own experts, in all layers, where these differ from the other experts'. As many as those
    have. All experts are computed at the largest width."""

    def named_tasks(self) -> dict[str, tuple[str, ...]]:
        return super().named_tasks() | {"task_hidden": tuple(self.task_hidden)}

    @model_validator(mode="after")
    def _as_many_hidden_layers(self) -> "ModelOfTaskExperts":
        layers = getattr(self, "layer_hidden", ()) or (self.expert_hidden,)
        for task, widths in self.task_hidden.items():
            other = next((w for w in layers if len(w) != len(widths)), None)
            if other is not None:
                layers_told = f"experts have {len(other)} hidden layers: give a width for each"
                raise ValueError(f"task_hidden.{task} has {len(widths)} widths, and {layers_told}")
        return self


MODELS = Kinds(
    ModelSection,
    {
        "single_task": "home_dist.models.single_task:SingleTask",
        "shared_bottom": "home_dist.models.shared_bottom:SharedBottom",
        "omoe": "home_dist.models.mmoe:Omoe",
        "mmoe": "home_dist.models.mmoe:Mmoe",
        "ml_mmoe": "home_dist.models.ml_mmoe:MlMmoe",
        "cgc": "home_dist.models.cgc:Cgc",
        "ple": "home_dist.models.ple:Ple",
        "home": "home_dist.models.home:Home",
        "l2_constrained": "home_dist.models.l2_constrained:L2Constrained",
        "cross_stitch": "home_dist.models.cross_stitch:CrossStitch",
        "tensor_factorization": "home_dist.models.tensor_factorization:TensorFactorization",
        "adatt": "home_dist.models.adatt:AdaTT",
        "pepnet": "home_dist.models.pepnet:PepNet",
        "smes": "home_dist.models.smes:Smes",
        "stem": "home_dist.models.stem:Stem",
        "esmm": "home_dist.models.esmm:Esmm",
    },
    default="home",
    interface="home_dist.models.base:MultiTaskModel",
    needs=("forward",),
)

AnyModel = Annotated[SerializeAsAny[ModelSection], BeforeValidator(MODELS.read)]
"""A section of its kind's class."""
