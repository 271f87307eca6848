"""A run's figures for tables of many runs. Read without torch."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from home_dist.config import config_of_run
from home_dist.config.model import MODELS
from home_dist.errors import ConfigError
from home_dist.files.json_files import read_json, with_nan
from home_dist.files.toml_text import read_toml
from home_dist.insight.run_files import CURVES, TABLES, VALIDATIONS
from home_dist.insight.store import InsightStore
from home_dist.schema import Schema, load_schema


@dataclass(frozen=True)
class RunFigures:
    path: Path
    name: str
    """The folder's, or what tells the run apart from others that are shown beside it."""
    model_kind: str
    schema: Schema
    tasks: list[str]
    """Tasks that the run trains, in the schema's order."""
    curves: list[dict[str, Any]]
    evaluation: dict[str, Any]
    validations: list[dict[str, Any]]
    """By checkpoint: its step, and the tasks' metrics on the validation split."""

    @staticmethod
    def open(path: Path) -> "RunFigures":
        """Raises ConfigError for a folder without a run."""
        tree, schema = read_toml(config_of_run(path), ""), load_schema(path / "schema.toml")
        chosen = tree.get("data", {}).get("tasks", [])
        evaluation = read_json(path / "evaluation.json", "Remove it; the run's own command writes it anew.", ConfigError)
        return RunFigures(
            path=path,
            name=path.absolute().name,
            model_kind=MODELS.of(tree.get("model", {})),
            schema=schema,
            tasks=[t.name for t in schema.task if not chosen or t.name in chosen],
            curves=InsightStore(path / "insight").lines(CURVES),
            evaluation=with_nan(evaluation),
            validations=InsightStore(path / "insight").lines(VALIDATIONS),
        )

    @property
    def store(self) -> InsightStore:
        return InsightStore(self.path / "insight")

    @property
    def looked_at(self) -> bool:
        """Whether there are records that could have shown a failure."""
        return self.store.names() is not None and bool(self.store.steps() or self.store.lines(TABLES))

    @property
    def steps(self) -> int:
        return max([self.evaluation.get("step", 0), *(c["step"] for c in self.curves), *self.store.steps()])

    @property
    def drawn(self) -> str:
        """What intervals draw: whole users where the data names them, else rows."""
        return "rows" if self.schema.group_column is None else "users"

    @property
    def splits(self) -> list[str]:
        return [s for s in ("test", "validation", "train") if s in self.evaluation]

    def metric(self, split: str, task: str, name: str) -> float:
        value = self.evaluation.get(split, {}).get(task, {}).get(name)
        return math.nan if value is None else float(value)

    def family(self, split: str, task: str) -> str:
        """Family of a task's metrics: "binary", "number" or "class"."""
        return str(self.evaluation.get(split, {}).get(task, {}).get("family", "binary"))

    def mean(self, split: str, name: str, tasks: Sequence[str] | None = None) -> float:
        """Mean over the tasks, by default all, for which the metric is defined."""
        of_tasks = (self.metric(split, t, name) for t in (self.tasks if tasks is None else tasks))
        return mean_defined(of_tasks)


def mean_defined(values: Iterable[float]) -> float:
    """Mean of the values that are not NaN; NaN if there are none. (As metrics.mean_defined, without an import of torch.)"""
    defined = [v for v in values if not math.isnan(v)]
    return math.fsum(defined) / len(defined) if defined else math.nan
