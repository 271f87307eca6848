"""Three ways to have a model for each day, for `daily.py`: increments, training anew on all days so far, standing still.

What is made once stays in the work folder; a run that was stopped goes on.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.sample_run import ROOT, SINGLE, set_options
from home_dist.daily.daily_section import load_daily
from home_dist.daily.days import Daily
from home_dist.data.inputs import open_inputs
from home_dist.distributed.ranks import Ranks
from home_dist.evaluation.scores import Families, scored
from home_dist.files.json_files import json_text, read_json, write_json
from home_dist.files.whole import whole_file
from home_dist.schema.meaning import fingerprint
from home_dist.training.build import build
from home_dist.training.checkpoint.loading import load
from home_dist.training.checkpoint.of_run import find
from home_dist.training.run_folder import RunFolder

POLICIES = ("increments", "anew", "still")
_PREPARE = ("--hold-out", "0", "--no-page")
_DAILY = """
description = "description.toml"
run = "{run}"
out = "{out}"
first_day = {first}
last_day = {last}
hold_out = 0
page = false
set = {settings}
"""


@dataclass
class Work:
    """The folder, and what each command took: costs.json, by policy/seed/day/step."""

    folder: Path
    days: Sequence[str]
    """Of the log, in order; the first is the last day of the first preparation."""
    checked: bool = True
    """Whether `home-dist daily` scores the second day, to be compared with this benchmark's scores."""

    def run(self, cost: str, *arguments: object) -> None:
        """Runs home-dist, as a process of its own. Ends this process if it fails."""
        command = [*SINGLE, *map(str, arguments)]
        log = self.folder / "commands.log"
        with log.open("a") as told:
            variables = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
            process = subprocess.Popen(command, cwd=self.folder, env=variables, stdout=told, stderr=told)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"failed: {' '.join(command)}; see {log}")
        write_json(self._cost(cost), {"processor_seconds": used.ru_utime + used.ru_stime})

    def _cost(self, name: str) -> Path:
        path = self.folder / "costs" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def processor_seconds(self, cost: str) -> float:
        return float(read_json(self._cost(cost), "Remove the work folder.")["processor_seconds"])

    def run_of(self, seed: int) -> str:
        """Configuration of a seed's runs."""
        text = (self.folder / "run.toml").read_text().replace("[train]", f"[train]\nseed = {seed}")
        path = self.folder / f"run-{seed}.toml"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
        return path.name

    def train(self, cost: str, seed: int, data: Path, run: Path, settings: Sequence[str], *more: object) -> None:
        places = [f"data.path={json_text(str(data))}", f"run.dir={json_text(str(run))}", 'data.validation=""', 'data.test=""']
        if not (run / "checkpoints").exists():
            self.run(cost, "train", self.run_of(seed), *set_options([*settings, *places, "metrics.of_training=false"]), *more)

    def prepare(self, cost: str, out: Path, last: str, *more: object) -> Path:
        if not out.exists():
            self.run(cost, "prepare", "description.toml", out, "--last-day", last, *_PREPARE, *more)
        return out


@dataclass
class Increments(Daily):
    """`home-dist daily`, whose commands are measured. Left out: `evaluate` after the second day, as this benchmark scores the
    days itself, and the last day's training, whose model no day is scored by."""

    work: Work = field(kw_only=True)
    seed: int = field(kw_only=True)
    at: str = ""

    def _prepare(self, name: str, options: Sequence[str]) -> str:
        self.at = name
        return super()._prepare(name, options)

    def _figures(self, run: str, data: str, file: str, *options: str) -> dict[str, float | None]:
        asked = self.work.checked and self.at == self.work.days[1]
        return super()._figures(run, data, file, *options) if asked else {}

    def _train(self, name: str, data: str, begin: Sequence[str], options: Sequence[str]) -> None:
        if name == self.work.days[0] or name != self.work.days[-1]:
            super()._train(name, data, begin, options)

    def _call(self, step: str, ranks: int, *arguments: object) -> None:
        self.work.run(f"increments/{self.seed}/{self.at}/{step}", *arguments)


def increments(work: Work, seed: int, settings: Sequence[str]) -> None:
    """Takes all days."""
    out = days_of(work, seed)
    text = _DAILY.format(
        run=work.run_of(seed), out=out.name, first=work.days[0], last=work.days[-1], settings=json.dumps(list(settings))
    )
    config = work.folder / f"increments-{seed}.toml"
    config.write_text(text)
    section = load_daily(config)
    Increments(section, lambda _: None, work=work, seed=seed).run()


def days_of(work: Work, seed: int) -> Path:
    return work.folder / f"days-{seed}"


def anew(work: Work, seed: int, settings: Sequence[str] = ()) -> None:
    """A model of all days up to each, but for the last day, and for the first, whose model is that of the increments."""
    for before, day in _pairs(work.days):
        if before == work.days[0] and not settings:
            continue
        folder = work.folder / "anew" / before
        data = work.prepare(f"anew/0/{before}/prepare", folder / "data", before)
        name = "-".join([*settings, str(seed)])
        work.train(f"anew/{name}/{before}/train", seed, data, folder / f"run-{name}", settings)
        work.prepare(f"anew/0/{before}/prepare_next", folder / "next", day, "--like", data)


def _pairs(days: Sequence[str]) -> Iterator[tuple[str, str]]:
    return zip(days, days[1:], strict=False)


def models(work: Work, policy: str, seed: int, settings: Sequence[str] = ()) -> Iterator[tuple[str, Path, Path]]:
    """(day, run that scores it, its data)"""
    days = days_of(work, seed)
    for before, day in _pairs(work.days):
        if policy == "anew" and (before != work.days[0] or settings):
            folder = work.folder / "anew" / before
            yield day, folder / f"run-{'-'.join([*settings, str(seed)])}", folder / "next"
        else:
            yield day, days / "runs" / (work.days[0] if policy == "still" else before), days / "data" / day


@dataclass(frozen=True)
class Scores:
    """Of a day's rows, N, for K tasks."""

    tasks: list[str]
    scores: NDArray[np.float64]
    """(N, K) logits"""
    labels: NDArray[np.float32]
    weights: NDArray[np.float32]
    groups: NDArray[np.int64]
    """(N,) users"""


def scores_of(run: Path, data: Path, ranks: Ranks) -> Scores:
    """As `home-dist evaluate RUN --data DATA` computes them. They are kept beside the run."""
    kept = run.parent / f"{run.name}-on-{data.name}.npz"
    if kept.exists():
        with np.load(kept) as arrays:
            return Scores(arrays["tasks"].tolist(), *(arrays[name] for name in ("scores", "labels", "weights", "groups")))
    folder = RunFolder(run)
    config, schema = folder.open()
    inputs = open_inputs(config, schema, ("train",), folder.recorded_vocabularies(), str(data))
    built = build(inputs, ranks)
    load(find(run), built.model, None, fingerprint(schema))
    own = scored(built.model, inputs.evaluation_reader("train", ranks), ranks, Families.of(built.objectives))
    scores = Scores([t.name for t in inputs.schema.task], own.scores.astype(np.float64), own.labels, own.weights, own.groups)
    with whole_file(kept) as file:
        np.savez_compressed(file, allow_pickle=False, **{name: np.asarray(value) for name, value in vars(scores).items()})
    return scores
