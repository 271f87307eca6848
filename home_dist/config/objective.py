"""The [objective.TASK] sections: how a task is learned. Each kind has its own section, in its objective's file."""

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from home_dist.config.kinds import Kinds
from home_dist.config.section import Section, refuse_idle

Labels = Literal["0 or 1", "number", "number >= 0", "class"]
"""What a label may be. A class is a whole number from 0 to the number of classes - 1."""


class ObjectiveSection(Section):
    kind: str
    """The kind of objective, or package.module:Class of your own."""
    reads_duration: ClassVar[bool] = False
    """Whether it reads the task's duration column."""

    @property
    def labels(self) -> Labels:
        return "number"

    @property
    def can_be_taught(self) -> bool:
        """Whether `losses` also takes labels between the values of `labels`, such as a teacher's predictions."""
        return False


class WithinRequest(ObjectiveSection):
    """Keys of objectives with one logit that also learn the order within a request (`[data] request`)."""

    within: Literal["pairwise", "listwise", "jrc"] | None = None
    """A second loss over the samples of a request: "pairwise", the logistic loss of the differences of two samples' logits;
    "listwise", the cross entropy of the softmax over the request; "jrc", of binary tasks only, which gives the tower two
    logits."""
    within_weight: float = Field(default=1.0, gt=0)
    """Factor of the second loss."""

    @model_validator(mode="after")
    def _weight_has_a_loss(self) -> "WithinRequest":
        refuse_idle(self, {"within_weight": self.within is not None}, "no `within`")
        return self

    @model_validator(mode="after")
    def _jrc_is_binary(self) -> "WithinRequest":
        if self.within == "jrc" and self.labels != "0 or 1":
            raise ValueError('within = "jrc" compares the logits of two classes: it is for binary tasks')
        return self


OBJECTIVES = Kinds(
    ObjectiveSection,
    {
        "binary": "home_dist.objectives.binary:Binary",
        "regression": "home_dist.objectives.regression:Regression",
        "duration_quantile": "home_dist.objectives.duration_quantile:DurationQuantile",
        "weighted_logistic": "home_dist.objectives.weighted_logistic:WeightedLogistic",
        "ordinal": "home_dist.objectives.ordinal:Ordinal",
        "multiclass": "home_dist.objectives.multiclass:Multiclass",
    },
    default="",
    interface="home_dist.objectives.base:Objective",
    needs=("start", "losses", "predicted"),
)

AnyObjective = Annotated[SerializeAsAny[ObjectiveSection], BeforeValidator(OBJECTIVES.read)]
"""A section of its kind's class."""
