"""The metrics of a split, per task and per slice."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from home_dist.config import RunConfig
from home_dist.data import Reader
from home_dist.data.inputs import Inputs
from home_dist.distributed.ranks import Ranks
from home_dist.errors import ConfigError
from home_dist.evaluation.measure import measured, within_all_requests, within_users
from home_dist.evaluation.scores import Families, Scored, scored, without_broken
from home_dist.evaluation.screen_tables import evaluation_tables, slice_table
from home_dist.ids.keys import NO_GROUP
from home_dist.metrics import Slice, TaskMetrics, calibration_curve, number_calibration, slices_of
from home_dist.objectives import Objectives
from home_dist.schema import InputLayout, Schema
from home_dist.screen import Screen


class Scoring(Protocol):
    """A model and what its scores mean, such as training/build.py's Built."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def objectives(self) -> Objectives: ...


@dataclass(frozen=True)
class Evaluation:
    tasks: list[TaskMetrics]
    slices: list[Slice]
    scored: Scored
    grouped: bool
    """Whether the data has a column for GAUC."""
    notes: list[str]
    """Tasks that could not be measured, and rows that GAUC leaves out."""

    def to_json(self) -> dict[str, Any]:
        return {m.task: m.to_json() for m in self.tasks}

    def calibration_to_json(self) -> dict[str, Any]:
        """By task: the bins' weights, mean predictions and mean labels, as "rate", and of numbers the labels' deviations."""
        s, curves = self.scored, dict[str, Any]()
        for k, task in enumerate(self.tasks):
            scores = s.scores[:, s.families.columns(k)][:, 0]
            if task.family == "binary":
                curve = calibration_curve(s.labels[:, k], scores, s.weights[:, k], logits=True)
                curves[task.task] = {name: getattr(curve, name).tolist() for name in ("weight", "prediction", "rate")}
            elif task.family == "number":
                bins = number_calibration(s.labels[:, k], scores, s.weights[:, k])
                named = {"weight": bins.weight, "prediction": bins.prediction, "rate": bins.label}
                curves[task.task] = {n: x.tolist() for n, x in {**named, "deviation": bins.label_deviation}.items()}
        return curves


def slice_columns(layout: InputLayout, features: Sequence[str]) -> list[int]:
    """Columns of Batch.small that hold the features of `[metrics] slices`. Raises ConfigError for a feature without one."""
    small = [i.key for i in layout.at("small")]
    for feature in features:
        if feature not in small:
            raise ConfigError(
                f"metrics.slices: {feature!r} cannot cut a split; features that can, those of small tables and statistics: "
                f"{', '.join(small) or 'none'}"
            )
    return [small.index(feature) for feature in features]


def evaluate(
    built: Scoring, reader: Reader, schema: Schema, layout: InputLayout, config: RunConfig, ranks: Ranks
) -> Evaluation:
    tasks, grouped = [t.name for t in schema.task], schema.group_column is not None
    chosen, families = config.metrics.slices, Families.of(built.objectives)
    samples, notes = without_broken(scored(built.model, reader, ranks, families, slice_columns(layout, chosen)), tasks)
    users = samples.groups if grouped else None

    def of_rows(rows: NDArray[np.intp]) -> list[TaskMetrics]:
        part = replace(samples, scores=samples.scores[rows], labels=samples.labels[rows], weights=samples.weights[rows])
        return measured(part, tasks, None if users is None else users[rows])

    slices = list(slices_of(chosen, samples.slices, of_rows, config.metrics.slice_rows))
    metrics = measured(samples, tasks)
    without_user = int((samples.groups == NO_GROUP).sum()) if grouped else 0
    if without_user:
        notes.append(f"{without_user:,} of {len(samples.groups):,} rows have no {schema.group_column}: GAUC is of the others")
    metrics = within_all_requests(within_users(metrics, samples, ranks) if grouped else metrics, samples, ranks)
    return Evaluation(metrics, slices, samples, grouped, notes)


def evaluate_splits(
    inputs: Inputs,
    splits: Sequence[str],
    built: Scoring,
    ranks: Ranks,
    screen: Screen,
    tell_bad_rows: Callable[[str, Reader, int], None],
    step: int,
) -> dict[str, Evaluation]:
    """Measures splits one after the other and shows their tables. Collective. step: the step of the model's parameters."""
    evaluations = {}
    for split in splits:
        reader = inputs.evaluation_reader(split, ranks)
        evaluations[split] = evaluate(built, reader, inputs.schema, inputs.layout, inputs.config, ranks)
        tell_bad_rows(split, reader, step)
        for table in evaluation_tables(split, evaluations[split].tasks, inputs.schema):
            screen.table(table)
        for note in evaluations[split].notes:
            screen.say(f"note: {note}")
        for feature in inputs.config.metrics.slices:
            screen.table(slice_table(split, feature, [s for s in evaluations[split].slices if s.feature == feature]))
    return evaluations
