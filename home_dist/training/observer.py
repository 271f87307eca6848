"""Reports a run's insight while it trains: records in its folder, findings on the screen, curves in TensorBoard."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from home_dist.config import RunConfig
from home_dist.distributed.ranks import Ranks
from home_dist.insight.collector import Collector, names_of
from home_dist.insight.findings import Finding, Judge
from home_dist.insight.run_files import CURVES, FINDINGS, TABLES, VALIDATIONS
from home_dist.insight.store import Figures, InsightStore, StepRecord
from home_dist.insight.table_figures import table_figures
from home_dist.metrics import TaskMetrics
from home_dist.schema import Schema
from home_dist.schema.values import HashValues
from home_dist.screen import Screen
from home_dist.training.build import Built
from home_dist.training.events import EventLog
from home_dist.training.progress import IntervalFigures


class Observer:
    """Every rank has one and calls it at the same steps; the first rank writes. Does nothing if insight is off."""

    def __init__(
        self,
        built: Built,
        schema: Schema,
        config: RunConfig,
        folder: Path,
        log: EventLog,
        ranks: Ranks,
        screen: Screen,
        step: int,
        steps: int | None,
    ):
        """step: the last step before this process trains; steps: the run's last one, None for a run without an end."""
        self.config, self.model, self.ranks = config, built.model, ranks
        self.log, self.screen, self.store = log, screen, InsightStore(folder)
        self.tasks = [t.name for t in schema.task]
        managed = {name for name, table in config.embedding.tables.items() if table.managed}
        self.given = {name for name, table in config.embedding.tables.items() if table.start is not None}
        self.hashed = {t.name for t in schema.table if isinstance(t.values, HashValues)} - managed
        every = config.insight.interval(steps)
        self.on = every > 0
        self._counted = (0.0, time.perf_counter())
        if not self.on:
            return
        self.collector = Collector(built.model, built.optimizer, schema, config.insight, every)
        self.names = names_of(self.collector.anatomy, self.collector.tasks, list(self.collector.columns))
        self.judge = Judge(self.names, config.insight.rules)
        if ranks.first:
            self.store.begin(self.names, step)
            self.judge.replay(self.store)
            self.log.layout(self.names)

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Wraps training step `step`, counted from 1."""
        if not self.on:
            yield
            return
        with self.collector.step(step, self._keep):
            yield

    def interval(self, step: int, interval: IntervalFigures, rate: float) -> None:
        """Records the figures of a progress line."""
        if not (self.on and self.ranks.first):
            return
        before, began = self._counted
        self._counted = (self.collector.seconds, time.perf_counter())
        entry = {
            "step": step,
            "loss": interval.loss,
            "task_losses": dict(zip(self.tasks, interval.task_losses, strict=True)),
            "auxiliary": interval.auxiliary,
            "running": {name: dict(zip(self.tasks, values, strict=True)) for name, values in interval.running.items()},
            "samples_per_second": interval.samples_per_second,
            "learning_rate": rate,
            "waiting": interval.wait_share,
            "insight": (self.collector.seconds - before) / max(1e-9, self._counted[1] - began),
        }
        self.store.append(CURVES, entry)

    def validation(self, step: int, tasks: Sequence[TaskMetrics]) -> None:
        """Records the metrics of the validation split, measured at a checkpoint."""
        if self.on and self.ranks.first:
            self.store.append(VALIDATIONS, {"step": step, "tasks": {m.task: m.to_json() for m in tasks}})

    def tables(self, step: int, epoch_over: bool) -> None:
        """Records the figures of embedding tables, at a checkpoint."""
        if not self.on:
            return
        began = time.perf_counter()
        std, seed = self.config.embedding.init_std, self.config.train.seed
        tables = table_figures(self.model, std, seed, self.hashed, self.given)
        self.collector.seconds += time.perf_counter() - began
        if self.ranks.first and tables:
            self.store.append(TABLES, {"step": step, "epoch_over": epoch_over, "tables": [asdict(t) for t in tables]})
            self._tell(step, self.judge.tables(step, tables, epoch_over))

    def _keep(self, step: int, figures: Figures) -> None:
        if not self.ranks.first:
            return
        record = StepRecord(step, figures)
        self.store.write(record)
        self.log.insight(step, figures, self.names)
        self._tell(step, self.judge.record(record))

    def _tell(self, step: int, findings: list[Finding]) -> None:
        for finding in findings:
            self.store.append(FINDINGS, finding.to_json(step))
            self.screen.say(f"finding: {finding}")
            self.log.finding(step, str(finding))
