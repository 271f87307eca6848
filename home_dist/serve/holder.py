"""The version that answers. A thread looks for a new one, opens and verifies it while requests run, and takes it in one go."""

import gc
import os
import threading
import time
from collections.abc import Callable, Sequence

import pyarrow as pa

from home_dist.config.load import overridden
from home_dist.config.serve import ServeSection
from home_dist.data.files import needed_inputs
from home_dist.errors import UserError
from home_dist.prepare.online import OnlineColumns
from home_dist.publish.folder import VersionsFolder
from home_dist.publish.manifest import PublishError
from home_dist.publish.on_top import open_on_top, settle
from home_dist.publish.replay import TOLERANCE, compared, golden_of
from home_dist.publish.scoring import VersionModel, open_version
from home_dist.publish.writing import MEANING
from home_dist.serve.log_request import open_online
from home_dist.serve.metrics import ServerMetrics
from home_dist.serve.request import RankingRequest, RefusedRequest
from home_dist.serve.version import ServedVersion

_NICE = 10
"""The thread that opens versions gives way to requests."""
_LONGEST_WAIT = 60.0
"""Seconds, at most, until a version that was refused is tried again."""


class VersionHolder:
    def __init__(self, place: str, overrides: Sequence[str], metrics: ServerMetrics, say: Callable[[str], None]):
        """overrides: of keys of [serve]. Raises UserError if there is no version that can be served."""
        self.place, self._overrides, self._metrics, self._say = place, overrides, metrics, say
        self._folder = VersionsFolder(place)
        self._there = self._folder.current()
        self.current = self._opened()
        self.refused: str | None = None
        """Why the newest version was not taken; None if it was."""
        self._ended = threading.Event()
        self._take(self.current)
        self._thread = threading.Thread(target=self._run, name="versions", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """A version that is being opened is not waited for."""
        self._ended.set()

    def _run(self) -> None:
        if hasattr(os, "setpriority"):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        failed: tuple[str, str] | None = None
        wait, again = 0.0, 0.0
        settled = True
        while not self._ended.wait(self.current.settings.poll_s):
            if not settled:
                settled = settle(self.current.model)
            try:
                there = self._folder.current()
            except Exception as error:  # such as a store that is away; requests must not end with it
                self._stays("newer ones cannot be looked for", error)
                continue
            try:
                if there == self._there:
                    self.refused = None  # `current` names the old version again
                if there == self._there or there is None or (there == failed and time.monotonic() < again):
                    continue
                wait = min(_LONGEST_WAIT, 2 * wait) if there == failed else self.current.settings.poll_s
                failed, again = there, time.monotonic() + wait
                version = self._opened(self.current)
            except Exception as error:
                if self._stays("a newer one was refused", error):
                    self._metrics.refused.inc()
                continue
            # `current` may have moved on while it was opened.
            self._there = there if version.name == there[0] else None
            self.current, failed, settled = version, None, False
            self._take(version)
            del version
            gc.collect()

    def _opened(self, before: ServedVersion | None = None) -> ServedVersion:
        """The current version, verified. before: the one that answers, whose tables it shares if it builds on it. Raises
        UserError."""
        model = None if before is None else open_on_top(before.model, self.place)
        if model is None:
            model = open_version(self.place)
        settings = overridden(model.program.trained.config.serve, "serve", self._overrides)
        version = ServedVersion(model, settings, self._online(model, settings, before))
        self._verify(version)
        return version

    def _online(self, model: VersionModel, settings: ServeSection, before: ServedVersion | None) -> OnlineColumns | None:
        """A delta has the state of its full version: both share it."""
        if not settings.log:
            return None
        if before is not None and before.model.manifest.full == model.manifest.full and before.settings.log:
            return before.online
        return open_online(model.place / MEANING, needed_inputs(model.program.layout))

    def _verify(self, version: ServedVersion) -> None:
        """Answers the golden requests, which also warms the version up. Raises PublishError if it answers otherwise than its
        trainer."""
        manifest = version.model.manifest
        if not manifest.golden:
            return
        requests, expected = golden_of(self._folder, manifest)
        try:
            [answers] = version.predict([version.decode(RankingRequest(pa.table({}), requests), limited=False)])
        except RefusedRequest as error:
            raise PublishError(f"{self._folder.shown(version.name)}: its golden requests cannot be read: {error}") from None
        found = compared(pa.table({n: answers[:, k] for k, n in enumerate(version.names)}), expected)
        far = max(found, key=lambda p: p.largest_difference)
        if far.largest_difference > (allowed := TOLERANCE[manifest.row_type]):
            raise PublishError(
                f"{self._folder.shown(version.name)}: {far.name}: its answers to the golden requests are up to "
                f"{far.largest_difference:.2e} from the trainer's, and {allowed:g} is allowed. Publish it again."
            )

    def _take(self, version: ServedVersion) -> None:
        self.refused = None
        self._metrics.takes(version.model.manifest)
        self._say(f"took {version.name} (step {version.model.step:,})")

    def _stays(self, why: str, error: Exception) -> bool:
        """Tells why the old version stays. False where nothing is told, as the server ends, and with it what reads stores."""
        if self._ended.is_set():
            return False
        told = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        if told != self.refused:
            self._say(f"{self.current.name} stays, {why}: {told}")
        self.refused = told
        return True
