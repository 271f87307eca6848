"""What /metrics tells, in Prometheus's format."""

import math
import time
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from home_dist.publish.manifest import Manifest
from home_dist.serve.missing import Ids

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_ROWS = (1, 10, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)


class ServerMetrics:
    """Counted by the event loop and by the thread that computes."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        here = self.registry
        self.seconds = Histogram(
            "home_dist_request_seconds", "From request to answer, answered ones", buckets=_SECONDS, registry=here
        )
        self.requests = Counter("home_dist_requests", "By status of HTTP; 499: the client was gone", ["status"], registry=here)
        self.candidates = Counter("home_dist_candidates", "Candidates that were ranked", registry=here)
        self.together = Histogram("home_dist_batch_candidates", "Candidates computed together", buckets=_ROWS, registry=here)
        self.waiting = Gauge("home_dist_requests_waiting", "Requests that are read, wait or are computed", registry=here)
        self.version = Gauge("home_dist_version", "Number of the version that answers", registry=here)
        self.step = Gauge("home_dist_version_step", "Its step of training", registry=here)
        self.taken = Counter("home_dist_versions_taken", "Versions that were taken, the first one included", registry=here)
        self.refused = Counter(
            "home_dist_versions_refused", "Versions that were refused: damaged, incomplete, unfit", registry=here
        )
        self.ids = Counter("home_dist_ids", "Ids in requests", ["feature"], registry=here)
        self.missing = Counter(
            "home_dist_ids_missing", "Ids in requests without a row of their own", ["feature"], registry=here
        )
        self._newest_data: float | None = None
        age = Gauge(
            "home_dist_newest_data_age_seconds",
            "Since the newest file of its training was written; NaN: unknown",
            registry=here,
        )
        age.set_function(lambda: math.nan if self._newest_data is None else time.time() - self._newest_data)

    def takes(self, manifest: Manifest) -> None:
        self._newest_data = manifest.newest_data
        self.version.set(manifest.number)
        self.step.set(manifest.step)
        self.taken.inc()

    def counts(self, ids: Mapping[str, Ids]) -> None:
        for feature, (count, missing) in ids.items():
            self.ids.labels(feature).inc(count)
            self.missing.labels(feature).inc(missing)

    def batch(self, candidates: int) -> None:
        self.together.observe(candidates)
        self.candidates.inc(candidates)

    def text(self) -> bytes:
        return generate_latest(self.registry)
