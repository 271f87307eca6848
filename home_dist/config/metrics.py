"""The [metrics] section: what an evaluation measures beside the whole of a split."""

from pydantic import Field

from home_dist.config.section import Section


class MetricsSection(Section):
    slices: tuple[str, ...] = ()
    """Features by whose values a split is cut, each with metrics of its own: ids of small tables, or statistics (by bucket)."""
    slice_rows: int = Field(default=100, ge=1)
    """Slices with fewer samples are left out: their metrics would be chance."""
    running_samples: int = Field(default=256, ge=0)
    """Samples of each rank and step of training that running AUC, normalised entropy and calibration are of; 0: none. They
    are told with the lines of progress, to TensorBoard and the report."""
    keep_scores: int = Field(default=1_000_000, ge=0)
    """Scores of splits with at most so many rows are kept in scores/, for intervals and for comparisons of two runs."""
