"""Scores of a split and its metrics, exact over ranks."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from home_dist.config import RunConfig
from home_dist.data import Reader
from home_dist.errors import ConfigError, UserError
from home_dist.files.json_files import read_json, write_json
from home_dist.files.whole import whole_file
from home_dist.ids.keys import NO_GROUP
from home_dist.metrics import (
    Slice,
    TaskMetrics,
    calibration_curve,
    evaluate_slices,
    evaluate_tasks,
    gather_rows,
    gauc_over_ranks,
    sigmoid,
)
from home_dist.schema import InputLayout, Schema
from home_dist.training import health
from home_dist.training.ranks import Ranks


@dataclass(frozen=True)
class Scored:
    """All ranks' real samples of a split, in the order of ranks; the same on every rank."""

    logits: np.ndarray
    """(N, K) float64: metrics are of these. Probabilities round: in float32 all logits above 17 are the same one."""
    labels: np.ndarray
    weights: np.ndarray
    groups: np.ndarray
    """(N,)"""
    slices: np.ndarray
    """(N, S): ids or buckets of chosen features."""

    @property
    def scores(self) -> np.ndarray:
        """Probabilities (N, K) float64."""
        return sigmoid(self.logits)


@dataclass(frozen=True)
class Evaluation:
    tasks: list[TaskMetrics]
    slices: list[Slice]
    scored: Scored
    grouped: bool
    """Whether the data has a column for GAUC."""
    notes: list[str]
    """Of tasks that could not be measured, and of rows that GAUC leaves out."""

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
    """Where the features of `[metrics] slices` stand in Batch.small. Raises ConfigError for others than those."""
    small = [i.key for i in layout.at("small")]
    for feature in features:
        if feature not in small:
            raise ConfigError(
                f"metrics.slices: {feature!r} cannot cut a split; features that can, those of small tables and statistics: "
                f"{', '.join(small) or 'none'}"
            )
    return [small.index(feature) for feature in features]


@torch.no_grad()
def scored(model: nn.Module, reader: Reader, ranks: Ranks, columns: Sequence[int] = ()) -> Scored:
    """columns: of Batch.small, to be kept as slices."""
    training = model.training
    model.eval()
    parts: list[list[torch.Tensor]] = [[], [], [], [], []]
    for batch in reader.epoch(0):
        real = batch.mask.bool()
        _, output = model(batch.to(ranks.device))
        kept = (output.logits.cpu(), batch.labels, batch.weights, batch.groups, batch.small[:, list(columns)])
        for part, column in zip(parts, kept, strict=True):
            part.append(column[real])
    model.train(training)
    health.meet()
    logits, labels, weights, groups, slices = gather_rows(*(torch.cat(part) for part in parts))
    return Scored(logits.double().numpy(), labels.numpy(), weights.numpy(), groups.numpy(), slices.numpy())


def evaluate(
    model: nn.Module, reader: Reader, schema: Schema, layout: InputLayout, config: RunConfig, ranks: Ranks
) -> Evaluation:
    tasks, grouped = [t.name for t in schema.task], schema.group_column is not None
    chosen = config.metrics.slices
    found = scored(model, reader, ranks, slice_columns(layout, chosen))
    found, notes = without_broken(found, tasks)
    groups = found.groups if grouped else None
    rows = (tasks, found.labels, found.weights, found.logits)
    slices = list(evaluate_slices(chosen, found.slices, *rows, groups, config.metrics.slice_rows, logits=True))
    metrics = evaluate_tasks(*rows, logits=True)
    without = int((found.groups == NO_GROUP).sum()) if grouped else 0
    if without:
        notes.append(f"{without:,} of {len(found.groups):,} rows have no {schema.group_column}: GAUC is of the others")
    return Evaluation(_with_gauc(metrics, found, ranks) if grouped else metrics, slices, found, grouped, notes)


def _with_gauc(metrics: Sequence[TaskMetrics], found: Scored, ranks: Ranks) -> list[TaskMetrics]:
    """GAUC sorts all rows by user, what takes longest of all: each rank does it for the users that a hash gives to it."""
    share = slice(ranks.rank, None, ranks.world_size)
    groups, result = torch.from_numpy(found.groups[share]), []
    for k, task in enumerate(metrics):
        labels, scores, weights = (torch.from_numpy(c[share, k]) for c in (found.labels, found.logits, found.weights))
        gauc = gauc_over_ranks(labels, scores, groups, weights)
        used, left_out = gauc.groups_used, gauc.groups_left_out
        result.append(replace(task, gauc=gauc.value, gauc_groups=used, gauc_groups_left_out=left_out))
    return result


def without_broken(found: Scored, tasks: Sequence[str]) -> tuple[Scored, list[str]]:
    """Takes out, by weight 0, tasks whose scores are NaN: a long run that ends with a task that has diverged still tells what
    the others came to, and that task's metrics are not defined, as those of a task without samples."""
    broken = np.isnan(found.logits) & (found.weights > 0)
    notes = [
        f"task {task!r}: {count:,} of {rows:,} scores are NaN, so that its metrics are not defined. The model has diverged: "
        "lower train.lr, or look for NaN in dense features."
        for task, count, rows in zip(tasks, broken.sum(0).tolist(), (found.weights > 0).sum(0).tolist(), strict=True)
        if count
    ]
    return replace(found, weights=np.where(broken.any(0), 0, found.weights)), notes


def record(path: Path, scores_folder: Path, splits: dict[str, Evaluation], step: int, samples: int, keep: int) -> None:
    """evaluation.json: per split and task, with the step that all were measured at, slices and calibration beside it; and the
    scores themselves of splits of at most `keep` rows. It is written last and whole: figures of two steps never stand together.
    """
    for split, found in splits.items():
        if len(found.scored.groups) <= keep:
            scores_folder.mkdir(exist_ok=True)
            s = found.scored
            arrays = {"scores": s.scores, "labels": s.labels, "weights": s.weights, "groups": s.groups}
            with whole_file(scores_folder / f"{split}.npz") as file:
                np.savez_compressed(file, allow_pickle=False, **arrays)
    tree: dict[str, Any] = {"step": step, "samples": samples, **{split: e.to_json() for split, e in splits.items()}}
    tree["calibration"] = {split: e.calibration_to_json() for split, e in splits.items()}
    slices = {split: [asdict(part) for part in e.slices] for split, e in splits.items() if e.slices}
    write_json(path, tree | ({"slices": slices} if slices else {}))


def recorded(path: Path, splits: Sequence[str], step: int) -> bool:
    """Whether evaluation.json holds the figures of these splits at this step."""
    try:
        tree = read_json(path, "")
    except UserError:  # what another program left of it cannot be used
        return False
    return tree.get("step") == step and set(splits) <= tree.keys()
