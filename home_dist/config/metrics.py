"""The [metrics] section: measurements beside those of a whole split."""

from pydantic import Field

from home_dist.config.section import Section


class MetricsSection(Section):
    slices: tuple[str, ...] = ()
    """Features that cut a split into slices with their own metrics: by ids of small tables, or by buckets of statistics."""
    slice_rows: int = Field(default=100, ge=1)
    """Slices with fewer samples are left out: their metrics would be noise."""
    running_samples: int = Field(default=256, ge=0)
    """Samples per rank and training step for running AUC, normalised entropy and calibration; 0: none. These appear in the
    lines of progress, in TensorBoard and in the report."""
    of_training: bool = True
    """A run without validation and test measures its training data when it ends."""
    keep_scores: int = Field(default=1_000_000, ge=0)
    """Keeps the scores of splits with at most so many rows in scores/, for intervals and for comparisons of two runs."""
