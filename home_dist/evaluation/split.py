"""The metrics of a split, per task and per slice."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from home_dist.config import RunConfig
from home_dist.data import Reader
from home_dist.data.inputs import Inputs
from home_dist.distributed.ranks import Ranks
from home_dist.errors import ConfigError
from home_dist.evaluation.scores import Scored, scored, without_broken
from home_dist.evaluation.screen_tables import evaluation_table, slice_table
from home_dist.ids.keys import NO_GROUP
from home_dist.metrics import Slice, TaskMetrics, calibration_curve, evaluate_slices, evaluate_tasks, gauc_over_ranks
from home_dist.schema import InputLayout, Schema
from home_dist.screen import Screen


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
        return {m.task: asdict(m) for m in self.tasks}

    def calibration_to_json(self) -> dict[str, Any]:
        """By task: the bins' weights, predictions and shares of positives."""
        s = self.scored
        curves = [
            calibration_curve(s.labels[:, k], s.logits[:, k], s.weights[:, k], logits=True) for k in range(len(self.tasks))
        ]
        return {
            m.task: {name: getattr(curve, name).tolist() for name in ("weight", "prediction", "rate")}
            for m, curve in zip(self.tasks, curves, strict=True)
        }


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
    model: nn.Module, reader: Reader, schema: Schema, layout: InputLayout, config: RunConfig, ranks: Ranks
) -> Evaluation:
    tasks, grouped = [t.name for t in schema.task], schema.group_column is not None
    chosen = config.metrics.slices
    samples, notes = without_broken(scored(model, reader, ranks, slice_columns(layout, chosen)), tasks)
    users = samples.groups if grouped else None
    columns = (tasks, samples.labels, samples.weights, samples.logits)
    slices = list(evaluate_slices(chosen, samples.slices, *columns, users, config.metrics.slice_rows, logits=True))
    metrics = evaluate_tasks(*columns, logits=True)
    without_user = int((samples.groups == NO_GROUP).sum()) if grouped else 0
    if without_user:
        notes.append(f"{without_user:,} of {len(samples.groups):,} rows have no {schema.group_column}: GAUC is of the others")
    return Evaluation(_with_gauc(metrics, samples, ranks) if grouped else metrics, slices, samples, grouped, notes)


def _with_gauc(metrics: Sequence[TaskMetrics], samples: Scored, ranks: Ranks) -> list[TaskMetrics]:
    """Adds GAUC. Sorting rows by user dominates evaluation, so users are hashed to ranks and each rank sorts its own users'
    rows."""
    share = slice(ranks.rank, None, ranks.world_size)
    groups, result = torch.from_numpy(samples.groups[share]), []
    for k, task in enumerate(metrics):
        labels, scores, weights = (torch.from_numpy(c[share, k]) for c in (samples.labels, samples.logits, samples.weights))
        gauc = gauc_over_ranks(labels, scores, groups, weights)
        used, left_out = gauc.groups_used, gauc.groups_left_out
        result.append(replace(task, gauc=gauc.value, gauc_groups=used, gauc_groups_left_out=left_out))
    return result


def evaluate_splits(
    inputs: Inputs,
    splits: Sequence[str],
    model: nn.Module,
    ranks: Ranks,
    screen: Screen,
    tell_bad_rows: Callable[[str, Reader, int], None],
    step: int,
) -> dict[str, Evaluation]:
    """Measures splits one after the other and shows their tables. Collective. step: the step of the model's parameters."""
    evaluations = {}
    for split in splits:
        reader = inputs.evaluation_reader(split, ranks)
        evaluations[split] = evaluate(model, reader, inputs.schema, inputs.layout, inputs.config, ranks)
        tell_bad_rows(split, reader, step)
        screen.table(evaluation_table(split, evaluations[split].tasks))
        for note in evaluations[split].notes:
            screen.say(f"note: {note}")
        for feature in inputs.config.metrics.slices:
            screen.table(slice_table(split, feature, [s for s in evaluations[split].slices if s.feature == feature]))
    return evaluations
