"""The [model] section: keys that all kinds of multi-task models have, and the table of kinds.

Each kind has its own section, in its model's file. A key means the same in every kind, so that `--set model.kind=...` keeps it
(see load.load_config).
"""

from typing import Annotated

from pydantic import BeforeValidator, Field, SerializeAsAny

from home_dist.config.kinds import Kinds
from home_dist.config.section import Count, Rate, Section, Widths


class ModelSection(Section):
    kind: str
    """A name of MODELS below, or package.module:Class of your own model."""
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

    def named_features(self) -> dict[str, tuple[str, ...]]:
        """By key: the features that the section names."""
        return {}

    def named_tasks(self) -> dict[str, tuple[str, ...]]:
        """By key: the tasks that the section names."""
        return {}


class ModelOfBanks(ModelSection):
    expert_norm: bool = False
    """Experts with Swish(BatchNorm(.)), as in HoME; else classic experts with ReLU."""


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
        "esmm": "home_dist.models.esmm:Esmm",
    },
    default="home",
    interface="home_dist.models.base:MultiTaskModel",
    needs=("forward",),
)

AnyModel = Annotated[SerializeAsAny[ModelSection], BeforeValidator(MODELS.read)]
"""A section of its kind's class."""
