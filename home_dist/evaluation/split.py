"""The metrics of a split, per task and per slice."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import nn

from home_dist.config import RunConfig
from home_dist.data import Reader
from home_dist.data.inputs import Inputs
from home_dist.distributed.ranks import Ranks
from home_dist.errors import ConfigError
from home_dist.evaluation.known_ids import KnownCounter
from home_dist.evaluation.measure import measured, within_all_requests, within_users
from home_dist.evaluation.scores import Families, Scored, scored, without_broken
from home_dist.evaluation.screen_tables import evaluation_tables, slice_table
from home_dist.evaluation.slices import measured_slices
from home_dist.ids.no_group import NO_GROUP
from home_dist.insight.cold_ids import KnownIds, cold_signs
from home_dist.insight.findings import headline
from home_dist.metrics import NumberCalibration, OverRanks, Slice, TaskMetrics
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
    scored: Scored | None
    """This rank's rows, where the split has at most `metrics.keep_scores`."""
    grouped: bool
    """Whether the data has a column for GAUC."""
    notes: list[str]
    """Tasks that could not be measured, and rows that GAUC leaves out."""
    known_ids: list[KnownIds] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {m.task: m.to_json() for m in self.tasks}

    def calibration_to_json(self) -> dict[str, Any]:
        """By task: the bins' weights, mean predictions and mean labels, as "rate", and of numbers the labels' deviations."""
        curves = dict[str, Any]()
        for task in self.tasks:
            if isinstance(task.curve, NumberCalibration):
                named = {"weight": task.curve.weight, "prediction": task.curve.prediction, "rate": task.curve.label}
                curves[task.task] = {n: x.tolist() for n, x in {**named, "deviation": task.curve.label_deviation}.items()}
            elif task.curve is not None:
                curves[task.task] = {n: getattr(task.curve, n).tolist() for n in ("weight", "prediction", "rate")}
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
    chosen, families, over = config.metrics.slices, Families.of(built.objectives), OverRanks(ranks.rank, ranks.world_size)
    counter = KnownCounter(layout, schema)
    own = scored(built.model, reader, ranks, families, slice_columns(layout, chosen), counter.add)
    samples, notes = without_broken(own, tasks, over)
    del own
    slices = measured_slices(chosen, samples, tasks, grouped, config.metrics.slice_rows, over)
    metrics = measured(samples, tasks, over=over)
    rows, without_user = (int(n) for n in over.sums(len(samples.groups), (samples.groups == NO_GROUP).sum()))
    if grouped and without_user:
        notes.append(f"{without_user:,} of {rows:,} rows have no {schema.group_column}: GAUC is of the others")
    metrics = within_all_requests(within_users(metrics, samples) if grouped else metrics, samples, over)
    kept = samples if rows <= config.metrics.keep_scores else None
    return Evaluation(metrics, slices, kept, grouped, notes, counter.counted(over))


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
        for sign in cold_signs(split, evaluations[split].known_ids, inputs.config.insight.rules):
            screen.say(f"finding: {headline(sign)} Try: {sign.advice}.")
        for feature in inputs.config.metrics.slices:
            screen.table(slice_table(split, feature, [s for s in evaluations[split].slices if s.feature == feature]))
    return evaluations
