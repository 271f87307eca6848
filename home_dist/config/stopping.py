"""The [train.ema] and [train.stop] sections: averages of dense parameters, and the end of a run that no longer improves."""

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, field_validator

from home_dist.config.section import Count, Section
from home_dist.errors import ConfigError

Measure = Literal[
    "auc", "gauc", "log_loss", "mae", "rmse", "r2", "xauc", "user_xauc", "accuracy", "macro_auc", "ndcg", "mrr", "recall"
]
"""Metrics of an evaluation, by their names in evaluation.json: means over the tasks for which they are defined."""
FAMILIES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("auc", "gauc"), ("binary",)),
    "log_loss": ("binary", "class"),
    **dict.fromkeys(("mae", "rmse", "r2", "xauc", "user_xauc"), ("number",)),
    **dict.fromkeys(("accuracy", "macro_auc"), ("class",)),
    **dict.fromkeys(("ndcg", "mrr", "recall"), ("binary", "number")),
}
"""By measure: families of the tasks that have it."""
SMALLER_IS_BETTER = frozenset({"loss", "log_loss", "mae", "rmse"})


class EmaSection(Section):
    decay: float = Field(gt=0, lt=1)
    """Share of the average that an update keeps, such as 0.999."""
    use: bool = False
    """Whether evaluations and exports use the averages; `--ema` and `--no-ema` of these commands say otherwise."""


def averages_wanted(config: Any, asked: bool | None) -> bool:
    """Whether to use the averages of a run. config: its RunConfig; asked: what a command's option says. Raises ConfigError if
    averages are asked for and the run keeps none."""
    ema = config.train.ema
    if asked and ema is None:
        raise ConfigError("--ema: the run keeps no averages of its parameters. Set train.ema, such as 0.999, and train again.")
    return ema is not None and (ema.use if asked is None else asked)


class StopSection(Section):
    metric: str
    """validation/NAME, such as "validation/gauc", measured at each checkpoint."""
    tasks: tuple[str, ...] = ()
    """Tasks whose mean counts; by default all that have the metric."""
    patience: Count = 3
    """Checkpoints in a row without a better value after which the run ends, on its best checkpoint; later ones are removed."""

    @field_validator("metric")
    @classmethod
    def _is_measured(cls, metric: str) -> str:
        split, _, name = metric.partition("/")
        if split != "validation" or name not in get_args(Measure):
            raise ValueError(f"must be validation/ and one of {', '.join(get_args(Measure))}")
        return metric

    def signed(self, value: float) -> float:
        """The metric as checkpoints hold it, where more is better; and back."""
        return -value if self.name in SMALLER_IS_BETTER else value

    @property
    def name(self) -> str:
        return self.metric.removeprefix("validation/")


Ema = Annotated[EmaSection | None, BeforeValidator(lambda value: _decay(value))]
"""A section, or the decay alone: ema = 0.999."""


def _decay(value: Any) -> Any:
    return {"decay": value} if isinstance(value, (int, float)) else value
