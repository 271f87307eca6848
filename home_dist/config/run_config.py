"""RunConfig: the typed, validated description of a run. Its sections are in the files of this package."""

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from home_dist.config.checkpoint import CheckpointSection
from home_dist.config.data import DataSection
from home_dist.config.distributed import DistributedSection
from home_dist.config.embedding import EmbeddingSection
from home_dist.config.insight import InsightSection
from home_dist.config.kernel import KernelSection
from home_dist.config.log import LogSection
from home_dist.config.metrics import MetricsSection
from home_dist.config.model import MODELS, AnyModel
from home_dist.config.objective import OBJECTIVES, AnyObjective, ObjectiveSection
from home_dist.config.publish import PublishSection
from home_dist.config.section import Section
from home_dist.config.sequence import AnyEncoder
from home_dist.config.serve import ServeSection
from home_dist.config.train import TrainSection


class RunSection(Section):
    dir: str
    """Folder of the run, for config.toml, schema.toml, checkpoints/, tensorboard/ and evaluation.json."""


class RunConfig(Section):
    run: RunSection
    """The run's folder."""
    data: DataSection
    """The files that a run reads, and how its reader reads them."""
    embedding: EmbeddingSection = EmbeddingSection()
    """Widths, precision, sharding and optimizer of tables."""
    sequence: tuple[AnyEncoder, ...] = ()
    """The histories that the model reads, each with its encoder. A sequence of the schema that is not listed is not read."""
    model: AnyModel = Field(default_factory=lambda: MODELS.read({}))
    """The multi-task model."""
    objective: dict[str, AnyObjective] = Field(default_factory=dict)
    """By task: how it is learned, where that differs from its kind in the schema with default settings."""
    train: TrainSection = TrainSection()
    """Batches, the optimizer of dense parameters, losses."""
    checkpoint: CheckpointSection = CheckpointSection()
    """When checkpoints are written, which stay, and what a new run begins with."""
    log: LogSection = LogSection()
    """How often a run reports progress."""
    kernel: KernelSection = KernelSection()
    """How the dense part is computed."""
    insight: InsightSection = InsightSection()
    """When a run examines its experts, and the thresholds of findings."""
    metrics: MetricsSection = MetricsSection()
    """Measurements beside those of a whole split."""
    distributed: DistributedSection = DistributedSection()
    """How long ranks wait for each other, and precisions of their exchange."""
    publish: PublishSection | None = None
    """Versions for servers, written while the run trains; by default none."""
    serve: ServeSection = ServeSection()
    """How `home-dist serve` answers from the run's versions."""

    @model_validator(mode="before")
    @classmethod
    def _stops_on_the_best(cls, tree: Any) -> Any:
        """With train.stop, the best checkpoint is the one that it means, unless checkpoint.best names another measure."""
        if isinstance(tree, dict) and isinstance(tree.get("train"), dict) and tree["train"].get("stop"):
            checkpoint = tree.get("checkpoint", {})
            if isinstance(checkpoint, dict):
                return {**tree, "checkpoint": {"best": "stop", **checkpoint}}
        return tree

    @model_validator(mode="after")
    def _consistent(self) -> "RunConfig":
        names = [s.name for s in self.sequence]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"sequence {name!r} is listed twice")
        every, accumulate = self.checkpoint.every_steps, self.train.accumulate
        if every and every % accumulate:
            nearest = max(1, round(every / accumulate)) * accumulate
            raise ValueError(
                f"checkpoint.every_steps = {every} is no multiple of train.accumulate = {accumulate}, whose steps share one "
                f"update. Set it to {nearest}, say"
            )
        if self.embedding.prefetch and accumulate > 1:
            raise ValueError(
                "embedding.prefetch: TorchRec's prefetching pipeline updates in each step: set train.accumulate = 1"
            )
        if self.kernel.backend == "compile" and self.train.recompute_experts:
            raise ValueError(
                'kernel.backend = "compile": torch.compile chooses itself what a backward computes again: leave out '
                "train.recompute_experts"
            )
        if self.kernel.backend == "compile" and self.distributed.expert_parallel > 1:
            raise ValueError(
                'kernel.backend = "compile": samples that travel to experts of other ranks are counted in each step, which no '
                'program holds. Set distributed.expert_parallel = 1, or kernel.backend = "auto"'
            )
        if self.kernel.cuda_graphs and self.kernel.backend != "compile":
            raise ValueError(
                f'kernel.cuda_graphs records the program that kernel.backend = "compile" makes, and the backend is '
                f'"{self.kernel.backend}": set it, or leave out kernel.cuda_graphs'
            )
        if self.kernel.cuda_graphs and accumulate > 1:
            raise ValueError(
                f"kernel.cuda_graphs: torch's graphs overwrite gradients that wait for the next step. Set train.accumulate = 1 "
                f"(it is {accumulate}), or leave out kernel.cuda_graphs"
            )
        if self.kernel.cuda_graphs and self.train.weighting.kind == "gradnorm":
            raise ValueError(
                "kernel.cuda_graphs: gradnorm passes several times through the backward of some steps, and graphs free what "
                "the next pass reads. Choose another train.weighting, or leave out kernel.cuda_graphs"
            )
        if self.checkpoint.best == "stop" and self.train.stop is None:
            raise ValueError('checkpoint.best = "stop" means the metric of train.stop, which is not set')
        if self.train.stop is not None and self.checkpoint.best != "stop":
            raise ValueError('train.stop ends on the best checkpoint by its own metric: leave checkpoint.best out, or "stop"')
        if self.train.stop is not None and (not every or not self.data.validation):
            lacking = "checkpoint.every_steps" if not every else "data.validation"
            raise ValueError(f"train.stop measures the validation split at each checkpoint: set {lacking}")
        if self.data.negatives is not None and (self.data.sample or self.data.request_columns):
            other = "data.sample" if self.data.sample else "data.request"
            raise ValueError(f"data.negatives leaves out single rows: it does not go with {other}")
        for task, objective in self.objective.items():
            within = getattr(objective, "within", None)
            if within is not None and not self.data.request_columns:
                raise ValueError(
                    f"objective.{task}.within = {within!r} compares the samples of a request: name the column of requests in "
                    "data.request"
                )
        if self.data.follow:
            for key, wrong in (
                ("train.epochs must be 1", self.train.epochs != 1),
                ('train.decay must be "none"', self.train.decay != "none"),
                ("train.stop must be left out", self.train.stop is not None),
                ("data.sample must be empty", bool(self.data.sample)),
                ("data.train must be a folder, no glob", any(c in self.data.train for c in "*?[")),
            ):
                if wrong:
                    raise ValueError(f"{key} with data.follow: what is still to come has no end")
        return self

    def objective_of(self, task: str, kind: str) -> ObjectiveSection:
        """How a task is learned. kind: its kind in the schema."""
        section: ObjectiveSection = self.objective.get(task) or OBJECTIVES.read({"kind": kind})
        return section

    def schema_path(self) -> Path:
        return Path(self.data.data_schema) if self.data.data_schema else Path(self.data.path) / "schema.toml"
