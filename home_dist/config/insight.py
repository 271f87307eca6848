"""The [insight] section: when a run examines its experts, and the thresholds of findings."""

from pydantic import Field

from home_dist.config.section import Section


class RulesSection(Section):
    """Thresholds of findings, see home_dist/insight/rules.py."""

    patience: int = Field(default=2, ge=1)
    """Consecutive records in which a rule must hold before it is reported."""
    collapse_spread: float = Field(default=100.0, gt=1)
    """Factor between the largest and smallest standard deviation of a bank's experts."""
    collapse_zeros: float = Field(default=0.9, gt=0, le=1)
    """Share of zeros in an expert's outputs."""
    collapse_weight: float = Field(default=0.95, gt=0, le=1)
    """Share of a gate's mixture that comes from one expert, although the gate sees others."""
    degradation_share: float = Field(default=0.9, gt=0, le=1)
    """Share of a shared expert's gate weights that comes from one task."""
    underfitting_ratio: float = Field(default=0.1, gt=0, lt=1)
    """Contribution of each of a task's own experts over that of the shared experts it sees; also for gradient norms."""
    sparse_rate: float = Field(default=0.1, gt=0, le=1)
    """Tasks with at most this share of positives count as sparse."""
    identical_distance: float = Field(default=0.01, gt=0, lt=1)
    """Squared distance of two experts' outputs over the sum of their squared norms."""
    constant_std: float = Field(default=1e-3, gt=0)
    """Largest standard deviation over samples of a gate that counts as constant."""
    idle_use: float = Field(default=0.001, ge=0, lt=1)
    """Share of the samples that use an expert of a pool, at most, for it to count as never chosen."""
    crowded_load: float = Field(default=0.95, gt=0, le=1)
    """Share of the choices of all samples and tasks that take one expert of a pool."""
    known_ids: float = Field(default=0.5, ge=0, le=1)
    """Share of a feature's ids in validation or test that have a row of their own: below it, they are cold."""
    negative_transfer: float = Field(default=0.002, gt=0)
    """Loss of AUC against the single-task run, see `home-dist inspect --against`."""
    dead_rows: float = Field(default=0.5, gt=0, le=1)
    """Share of a table's rows that no step has changed, once an epoch is over."""
    exploding_growth: float = Field(default=100.0, gt=1)
    """Factor by which the size (root mean square) of a table's trained rows exceeds their initial size."""


_LOOKS, _SHORTEST, _LONGEST = 50, 8, 100
"""By default: examinations of a run, and steps between two of them. One takes some 0.8 times as long as a step with 8 tasks
(benchmarks/insight.py): 50 of them cost some 40 steps, and in runs of any length no more than a tenth of the time."""


class InsightSection(Section):
    every_steps: int | None = Field(default=None, ge=0)
    """Steps between examinations of experts and gates; 0: never. They do not change training. By default a run has some 50 of
    them: every 8 steps in short runs, every 100 in those of 5,000 steps and more, and in runs without an end."""
    samples: int = Field(default=256, ge=1)
    """Samples per rank that an examination takes."""
    gradient_samples: int = Field(default=64, ge=1)
    """How many of these samples give gradients per task; each task costs a backward pass."""
    rules: RulesSection = RulesSection()

    def interval(self, steps: int | None) -> int:
        """Steps between examinations of a run of `steps` steps, None for one without an end; 0: never."""
        if self.every_steps is not None:
            return self.every_steps
        return _LONGEST if steps is None else min(max(steps // _LOOKS, _SHORTEST), _LONGEST)
