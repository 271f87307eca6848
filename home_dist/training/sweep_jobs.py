"""`home-dist sweep --engine torchx`: each run of a sweep is a job of a scheduler that torchx knows.

The command submits at most `at_once` jobs, asks the scheduler for their states, and leaves the results to sweep.py, which reads
the runs' folders: it must see them under the paths that the jobs write to. sweep_jobs.json in run.dir holds the newest job of
each run. A command that goes on follows a job that still waits or runs, and submits none beside it.
"""

import hashlib
import logging
import subprocess
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import home_dist
from home_dist.config import config_text
from home_dist.errors import ConfigError, UserError
from home_dist.files.json_files import read_json, write_json
from home_dist.screen import Screen
from home_dist.training.sweep import SweepRun

JOBS_FILE = "sweep_jobs.json"
_COMPONENT = Path("launchers", "components.py")
_LOST_AFTER, _SEEN_WITHIN = 300.0, 30.0
"""Seconds: without a state from the scheduler; until another machine's files are seen on a network file system."""
_OURS = {"config", "set", "name", "max_retries"}


@dataclass(frozen=True)
class JobSettings:
    scheduler: str = "local_cwd"
    ranks: int = 1
    """Of a job, on one node, unless `component` has j."""
    at_once: int | None = None
    """Jobs that wait or run at a time; by default 1 on this machine (local_cwd, local_docker), else 8."""
    options: tuple[str, ...] = ()
    """KEY=VALUE of the scheduler, such as partition=gpu."""
    component: tuple[str, ...] = ()
    """KEY=VALUE of the component, such as j=2x8 or gpu=8."""

    @property
    def local(self) -> bool:
        return self.scheduler.startswith("local_")


class SweepStopped(UserError):
    exit_code = 130


@dataclass
class _Job:
    label: str
    run: SweepRun
    handle: str
    asked: float
    """When the scheduler last told a state, in seconds of the monotonic clock."""
    begun: float
    state: str = "SUBMITTED"
    log: str = ""
    broken: str = ""
    """Why its run's folder cannot be read."""
    ended: float | None = None
    """When it had succeeded without a complete run in its folder."""


class TorchxEngine:
    def __init__(self, settings: JobSettings, poll_seconds: float | None = None):
        """Raises ConfigError for a scheduler or an option that torchx lacks."""
        from torchx.runner import config as torchx_config
        from torchx.runner import get_runner

        logging.getLogger("torchx").setLevel(logging.ERROR)
        self._settings, self._runner = settings, get_runner()
        if settings.scheduler not in self._runner.scheduler_backends():
            known = ", ".join(sorted(self._runner.scheduler_backends()))
            raise ConfigError(f"--scheduler {settings.scheduler}: torchx has no such scheduler. Choose one of {known}.")
        self._at_once = settings.at_once or (1 if settings.local else 8)
        self._poll = poll_seconds or (1.0 if settings.local else 5.0)
        self._component = f"{_component_file()}:train"
        self._arguments = _component_arguments(settings)
        self._options = self._scheduler_options()
        torchx_config.apply(scheduler=settings.scheduler, cfg=self._options)

    def _scheduler_options(self) -> dict[str, Any]:
        known = self._runner.scheduler_run_opts(self._settings.scheduler)
        for option in self._settings.options:
            key, equals, value = option.partition("=")
            if not equals or not value or known.get(key) is None:
                names = ", ".join(name for name, _ in known)
                raise ConfigError(
                    f"--scheduler-option {option}: write it as KEY=VALUE with a key of {self._settings.scheduler}: {names}"
                )
        return dict(known.cfg_from_str(",".join(self._settings.options)))

    def train(self, config: Path, runs: Sequence[tuple[str, SweepRun]], screen: Screen) -> list[str]:
        """Trains the labelled runs; describes those that failed. Ctrl-C cancels their jobs and raises SweepStopped."""
        if not runs:
            return []
        folder = runs[0][1].sweep
        folder.mkdir(parents=True, exist_ok=True)
        options = dict(self._options)
        if self._settings.local:
            options.setdefault("log_dir", str(folder / "job_logs"))
        failed: list[str] = []
        jobs: list[_Job] = []
        waiting = deque(runs)
        try:
            with self._runner:
                try:
                    jobs += self._followed(folder, waiting, screen)
                    while waiting or jobs:
                        while waiting and len(jobs) < self._at_once:
                            label, run = waiting.popleft()
                            try:
                                jobs.append(self._submit(config, label, run, options, screen))
                            except ConfigError as error:
                                failed.append(f"{run.name} ({run.folder}): {error}")
                                failed += [f"{r.name} ({r.folder}): not submitted" for _, r in waiting]
                                waiting.clear()
                            else:
                                self._note(folder, jobs[-1])
                        for job in list(jobs):
                            ended = self._look(job, screen)
                            if ended is not None:
                                jobs.remove(job)
                                failed += [ended] if ended else []
                        if jobs:
                            time.sleep(self._poll)
                except BaseException as error:
                    if _is_stop(error):
                        self._cancel(jobs, screen)
                    else:
                        for job in jobs:
                            screen.say(f"{job.label}: job {job.handle} goes on; the same command follows it")
                    raise
        except BaseException as error:
            if _is_stop(error):
                raise SweepStopped(
                    f"stopped: {len(jobs)} jobs cancelled, {len(waiting)} runs not submitted. The same command goes on."
                ) from None
            raise
        return failed

    def _followed(self, folder: Path, waiting: deque[tuple[str, SweepRun]], screen: Screen) -> list[_Job]:
        """Jobs of an earlier command that wait or run still; takes their runs out of `waiting`."""
        noted, jobs = read_json(folder / JOBS_FILE, f"Remove it if no job of the sweep {folder} runs."), []
        for label, run in list(waiting):
            note = noted.get(str(run.folder))
            if not isinstance(note, dict) or "job" not in note:
                continue
            handle = note["job"]
            try:
                status = self._runner.status(handle)
            except Exception as error:
                if "CANCELLED" in str(error):  # as _look has it
                    continue
                raise UserError(
                    f"{run.folder}: the scheduler does not tell the state of its job {handle} ({_first_line(error)}). Without "
                    f"it a second job might write to the same folder. Try again later, or, if the job runs no more, remove "
                    f"{folder / JOBS_FILE}."
                ) from None
            if status is None or status.is_terminal() or (status.state.name == "UNKNOWN" and self._settings.local):
                continue
            if note.get("configuration") != _fingerprint(run):
                raise UserError(
                    f"{run.folder}: job {handle} of an earlier command trains there with another configuration, and is "
                    f"{status.state.name}. Wait for it, or cancel it (torchx cancel {handle}), then start this command again."
                )
            waiting.remove((label, run))
            screen.say(f"{label}: job {handle} of an earlier command is {status.state.name}, followed")
            now = time.monotonic()
            jobs.append(_Job(label, run, handle, now, now, status.state.name, self._log_of(handle, status.ui_url)))
        return jobs

    def _submit(self, config: Path, label: str, run: SweepRun, options: Mapping[str, Any], screen: Screen) -> _Job:
        """Raises ConfigError when the scheduler does not take the job."""
        arguments = ["--config", str(config.absolute()), "--name", "sweep", *self._arguments, "--set", *run.overrides]
        try:
            handle = self._runner.run_component(self._component, arguments, self._settings.scheduler, options)
        except subprocess.CalledProcessError as error:
            said = error.stderr.decode(errors="replace") if isinstance(error.stderr, bytes) else error.stderr or ""
            raise self._refused(f"{error} {said.strip()}") from None
        except (Exception, SystemExit) as error:
            if hasattr(error, "sigval"):
                raise
            raise self._refused(_first_line(error)) from None
        now = time.monotonic()
        job = _Job(label, run, handle, now, now, log=self._log_of(handle, None))
        screen.say(f"{label}: job {handle} submitted, {run.folder}")
        return job

    def _refused(self, reason: str) -> ConfigError:
        return ConfigError(
            f"{self._settings.scheduler} does not take the job: {reason}. Check --scheduler, --scheduler-option and "
            "--component-option"
        )

    def _note(self, folder: Path, job: _Job) -> None:
        noted = read_json(folder / JOBS_FILE, "Remove it.")
        note = {"job": job.handle, "configuration": _fingerprint(job.run)}
        write_json(folder / JOBS_FILE, noted | {str(job.run.folder): note})

    def _look(self, job: _Job, screen: Screen) -> str | None:
        """None while the job lasts, "" when its run is complete, else why it failed."""
        now, told = time.monotonic(), ""
        try:
            status = self._runner.status(job.handle)
            gone = status is None
            state = "UNKNOWN" if status is None else status.state.name
        except Exception as error:
            told, gone = _first_line(error), False
            # torchx 0.7 fails at what Slurm says of a job that a person cancelled, "CANCELLED by 1000".
            status, state = None, "CANCELLED" if "CANCELLED" in str(error) else "UNKNOWN"
        if state == "UNKNOWN":
            if self._is_complete(job):
                return self._complete(job, screen)
            if now - job.asked < _LOST_AFTER and not (gone and self._settings.local):
                return None
            why = f"({told})" if told else "" if gone else "(its state is unknown)"
            return self._failed(job, screen, f"lost: {self._settings.scheduler} knows no more of it {why}".rstrip())
        job.asked = now
        if status is not None and status.ui_url:
            job.log = self._log_of(job.handle, status.ui_url)
        if state == "SUCCEEDED":
            if self._is_complete(job):
                return self._complete(job, screen)
            job.ended = job.ended or now
            if now - job.ended < (0.0 if self._settings.local else _SEEN_WITHIN):
                return None
            missing = "ended well, but its run is not complete in this folder, as this machine sees it"
            return self._failed(job, screen, f"{missing}{f' ({job.broken})' if job.broken else ''}")
        if state in ("FAILED", "CANCELLED"):
            if self._is_complete(job):  # it failed as it left
                return self._complete(job, screen)
            return self._failed(job, screen, state.lower())
        if state != job.state:
            screen.say(f"{job.label}: job {job.handle} is {state}")
            job.state = state
        return None

    def _is_complete(self, job: _Job) -> bool:
        """A folder that cannot be read is not complete: what another machine writes may come in parts."""
        try:
            job.broken, complete = "", job.run.complete
        except ConfigError as error:
            job.broken, complete = str(error), False
        return complete

    def _complete(self, job: _Job, screen: Screen) -> str:
        screen.say(f"{job.label}: complete, {time.monotonic() - job.begun:.0f} s after it was submitted or followed")
        return ""

    def _failed(self, job: _Job, screen: Screen, how: str) -> str:
        screen.say(f"{job.label}: job {job.handle} {how}; its log: {job.log}")
        return f"{job.run.name} ({job.run.folder}, job {job.handle} {how}; its log: {job.log})"

    def _cancel(self, jobs: Sequence[_Job], screen: Screen) -> None:
        """Jobs write a checkpoint when they are asked to leave, as long as the scheduler gives them time."""
        for job in jobs:
            screen.say(f"{job.label}: cancelling job {job.handle}")
            try:
                self._runner.cancel(job.handle)
            except Exception as error:
                screen.say(f"{job.label}: job {job.handle} could not be cancelled ({_first_line(error)}); cancel it yourself")

    def _log_of(self, handle: str, url: str | None) -> str:
        if url:
            return url.removeprefix("file://")
        if self._settings.scheduler == "slurm":
            folder = self._options.get("job_dir") or Path.cwd()
            return f"{folder}/slurm-{handle.rpartition('/')[2]}-train-0.out and .err"
        return f"torchx log {handle}"


def _fingerprint(run: SweepRun) -> str:
    """Of the run's configuration."""
    return hashlib.sha256(config_text(run.config).encode()).hexdigest()


def _component_file() -> Path:
    """launchers/components.py of the working folder, or of the repository that home_dist is imported from."""
    places = [Path.cwd(), Path(home_dist.__file__).resolve().parents[1]]
    for place in places:
        if (place / _COMPONENT).is_file():
            return place / _COMPONENT
    raise ConfigError(
        f"--engine torchx: there is no {_COMPONENT} in {' or '.join(map(str, places))}. Start it in the repository."
    )


def _component_arguments(settings: JobSettings) -> list[str]:
    arguments, given = [], set()
    for option in settings.component:
        key, equals, value = option.partition("=")
        if not equals or not key or not value:
            raise ConfigError(f"--component-option {option}: write it as KEY=VALUE, such as j=2x8 or gpu=8")
        if key in _OURS:
            raise ConfigError(f"--component-option {option}: the sweep sets {key} itself. Leave it out.")
        if key == "j" and settings.ranks != 1:
            raise ConfigError(f"--component-option {option} and --ranks {settings.ranks}: both set processes. Give one.")
        given.add(key)
        arguments += [f"{'-' if len(key) == 1 else '--'}{key}", value]
    return arguments if "j" in given else [*arguments, "-j", f"1x{settings.ranks}"]


def _is_stop(error: BaseException) -> bool:
    """Ctrl-C; torchx's local scheduler turns SIGINT and SIGTERM into an exception with a `sigval`."""
    return isinstance(error, KeyboardInterrupt) or hasattr(error, "sigval")


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
