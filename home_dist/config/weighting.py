"""The [train.weighting] section: how the tasks' losses are weighed against each other."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from home_dist.config.section import Count, Section, refuse_idle


class WeightingSection(Section):
    kind: Literal["fixed", "uncertainty", "dwa", "gradnorm"] = "fixed"
    """fixed: by train.task_weights alone; the others multiply these by factors of their own, which they find in training.
    uncertainty: one learned log variance per task (Kendall et al., CVPR 2018); dwa: more for losses that fall slowly (Liu et
    al., CVPR 2019); gradnorm: like norms of the tasks' gradients, more for tasks that train slowly (Chen et al., ICML 2018)."""
    period: Count = 100
    """dwa: steps of one mean loss, where the paper has an epoch. gradnorm: steps from one look at the gradients to the next; a
    look costs a backward per task."""
    temperature: float = Field(default=2.0, gt=0)
    """Of dwa's softmax; higher is more even."""
    alpha: float = Field(default=1.5, ge=0)
    """Of gradnorm: 0 makes all norms equal."""
    lr: float = Field(default=0.025, gt=0)
    """Of gradnorm's factors."""

    @model_validator(mode="after")
    def _each_key_has_an_effect(self) -> "WeightingSection":
        dwa, gradnorm = self.kind == "dwa", self.kind == "gradnorm"
        reads = {"period": dwa or gradnorm, "temperature": dwa, "alpha": gradnorm, "lr": gradnorm}
        refuse_idle(self, reads, f"kind = {self.kind!r}")
        return self


def _named(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


Weighting = Annotated[WeightingSection, BeforeValidator(_named)]
"""A section, or its kind alone: weighting = "dwa"."""
