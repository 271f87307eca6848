"""The [insight] section: when a run looks at its experts, and from where on it calls something a finding."""

from pydantic import Field

from home_dist.config.section import Section


class RulesSection(Section):
    """Thresholds of findings, see home_dist/insight/rules.py."""

    patience: int = Field(default=2, ge=1)
    """Records in a row in which a rule must hold before it is told."""
    collapse_spread: float = Field(default=100.0, gt=1)
    """Factor between the largest and smallest standard deviation of a bank's experts."""
    collapse_zeros: float = Field(default=0.9, gt=0, le=1)
    """Share of an expert's outputs that are zero."""
    collapse_weight: float = Field(default=0.95, gt=0, le=1)
    """Share of a gate's mixture that comes from one expert, although it may see others."""
    degradation_share: float = Field(default=0.9, gt=0, le=1)
    """Share of a shared expert's gate weights that one task gives."""
    underfitting_ratio: float = Field(default=0.1, gt=0, lt=1)
    """Contribution of a task's own experts, each, over that of the shared ones it sees; and the same of gradient norms."""
    sparse_rate: float = Field(default=0.1, gt=0, le=1)
    """Tasks with at most this share of positives count as sparse."""
    identical_distance: float = Field(default=0.01, gt=0, lt=1)
    """Squared distance of two experts' outputs over the sum of their squared norms."""
    constant_std: float = Field(default=1e-3, gt=0)
    """Largest standard deviation over samples of a gate that counts as constant."""
    negative_transfer: float = Field(default=0.002, gt=0)
    """AUC below the single-task run's, see `home-dist inspect --against`."""
    dead_rows: float = Field(default=0.5, gt=0, le=1)
    """Share of a table's rows that no step has changed, once an epoch is over."""
    exploding_growth: float = Field(default=100.0, gt=1)
    """Factor by which the size (root mean square) of a table's trained rows exceeds the size it started with."""


class InsightSection(Section):
    every_steps: int = Field(default=100, ge=0)
    """Steps between those in which experts and gates are looked at; 0: never. Training is the same either way."""
    samples: int = Field(default=256, ge=1)
    """Samples per rank that are looked at in such a step."""
    gradient_samples: int = Field(default=64, ge=1)
    """Of these, for each task's own gradients, which cost a backward pass each."""
    rules: RulesSection = RulesSection()
