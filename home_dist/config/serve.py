"""The [serve] section: how `home-dist serve` answers. It travels with a version; the command may override its keys."""

from pydantic import Field

from home_dist.config.section import Count, Section


class ServeSection(Section):
    score: str = ""
    """Formula of one score per candidate, of the predictions' names: like + 0.5 * log(watch). Empty: no score."""
    log: bool = True
    """Take requests in the columns of the log too (POST /predict/log), if the model's data was prepared from a described log.
    The counts and histories that its preparation left are then held in memory. False: they are not read."""
    batch_ms: float = Field(default=0.0, ge=0, le=1000)
    """Milliseconds that a request waits at most for others that are computed with it. 0: each is computed alone, and its answer
    does not depend on others. Together, products of matrices round otherwise: answers differ by some 1e-7."""
    batch_rows: Count = 4096
    """Candidates that are computed together, at most."""
    max_candidates: Count = 10_000
    """Of a request."""
    max_events: Count = 100_000
    """Values of a list, such as a history's events."""
    max_body_mb: float = Field(default=4.0, gt=0)
    """Megabytes of a request's body, at most. While Python reads JSON, other requests wait."""
    max_waiting: Count = 64
    """Requests that are read, wait or are computed at a time; more are told to come again (503)."""
    timeout_s: float = Field(default=10.0, gt=0)
    """Seconds after which a request is given up."""
    poll_s: float = Field(default=1.0, gt=0)
    """Seconds between looks for a new version."""
