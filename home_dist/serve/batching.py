"""One thread that reads and computes requests: those that come within a few milliseconds are computed together."""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from home_dist.export.users import Sides
from home_dist.serve.metrics import ServerMetrics
from home_dist.serve.request import Body, Parse, RefusedRequest
from home_dist.serve.version import MOST_PAIRS, Decoded, Predictions, ServedVersion


@dataclass
class Job:
    """A request that waits. Its version was current when it came, and answers it."""

    body: Body
    parse: Parse
    version: ServedVersion
    answer: "Future[Predictions]" = field(default_factory=Future)
    """Cancelled while it waits: it is not computed."""
    given_up: bool = False
    """Set when nobody waits for the answer any more."""
    came: float = field(default_factory=time.monotonic)


class Batcher:
    def __init__(self, metrics: ServerMetrics, failed: Callable[[Exception], None]):
        """failed: is told of errors that are none of a request's."""
        self._metrics, self._failed = metrics, failed
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)
        self._thread.start()

    def add(self, job: Job) -> None:
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()

    def close(self) -> None:
        """Computes what waits, then ends the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while (first := self._next(None)) is not None:
            self._compute(first)
            del first  # a version that is no longer current must not be held while no request comes

    def _next(self, deadline: float | None) -> Job | None:
        """The next job that still wants an answer. None at the end, or at the deadline."""
        with self._changed:
            while True:
                while self._jobs:
                    job = self._jobs.popleft()
                    if job.answer.set_running_or_notify_cancel():
                        return job
                left = None if deadline is None else deadline - time.monotonic()
                if self._closing or (left is not None and left <= 0):
                    return None
                self._changed.wait(left)

    def _compute(self, first: Job) -> None:
        """Computes a job, and others that come before it has waited long enough."""
        settings = first.version.settings
        groups: dict[tuple[int, Sides], list[tuple[Job, Decoded]]] = {}
        rows = self._read(first, groups)
        deadline = first.came + settings.batch_ms / 1000
        while settings.batch_ms and rows < settings.batch_rows and (job := self._next(deadline)) is not None:
            rows += self._read(job, groups)
        for members in groups.values():
            for together in _split(members, settings.batch_rows):
                self._answer(together)

    def _read(self, job: Job, groups: dict[tuple[int, Sides], list[tuple[Job, Decoded]]]) -> int:
        """Adds a request to those with the same version and sides. Returns its candidates."""
        try:
            decoded = job.version.decode(job.parse(job.body))
        except Exception as error:
            job.answer.set_exception(error)
            return 0
        job.body = b""  # of no more use
        groups.setdefault((id(job.version), decoded.sides), []).append((job, decoded))
        return decoded.candidates

    def _answer(self, together: list[tuple[Job, Decoded]]) -> None:
        try:
            answers = together[0][0].version.predict([decoded for _, decoded in together], lambda: not together[0][0].given_up)
            for job, decoded in together:
                self._metrics.counts(job.version.missing(decoded))
        except Exception as error:
            if not isinstance(error, RefusedRequest):
                self._failed(error)
            for job, _ in together:
                job.answer.set_exception(error)
            return
        self._metrics.batch(sum(map(len, answers)))
        for (job, decoded), answer in zip(together, answers, strict=True):
            if np.isfinite(answer).all():
                job.answer.set_result(answer)
            else:
                job.answer.set_exception(job.version.not_finite(decoded))


def _split(members: list[tuple[Job, Decoded]], most: int) -> list[list[tuple[Job, Decoded]]]:
    """Requests to compute together: at most `most` candidates, and MOST_PAIRS pairs of a candidate and an event. A request that
    is computed in parts stands alone."""
    found: list[list[tuple[Job, Decoded]]] = []
    rows = pairs = 0
    for job, decoded in members:
        more_rows, more_pairs = rows + decoded.candidates, pairs + decoded.candidates * decoded.events
        if found and len(decoded.rows) == 1 and more_rows <= most and more_pairs <= MOST_PAIRS:
            found[-1].append((job, decoded))
            rows, pairs = more_rows, more_pairs
        else:
            found.append([(job, decoded)])
            alone = len(decoded.rows) > 1
            rows, pairs = (most if alone else decoded.candidates), decoded.candidates * decoded.events
    return found
