"""RunConfig: the typed, validated description of a run. Its sections are in the files of this package."""

from pathlib import Path

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
from home_dist.config.section import Section
from home_dist.config.sequence import AnyEncoder
from home_dist.config.train import TrainSection


class RunSection(Section):
    dir: str
    """Folder of the run, for config.toml, schema.toml, checkpoints/, tensorboard/ and evaluation.json."""


class RunConfig(Section):
    run: RunSection
    data: DataSection
    embedding: EmbeddingSection = EmbeddingSection()
    sequence: tuple[AnyEncoder, ...] = ()
    model: AnyModel = Field(default_factory=lambda: MODELS.read({}))
    train: TrainSection = TrainSection()
    checkpoint: CheckpointSection = CheckpointSection()
    log: LogSection = LogSection()
    kernel: KernelSection = KernelSection()
    insight: InsightSection = InsightSection()
    metrics: MetricsSection = MetricsSection()
    distributed: DistributedSection = DistributedSection()

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
        if self.data.follow:
            for key, wrong in (
                ("train.epochs must be 1", self.train.epochs != 1),
                ('train.decay must be "none"', self.train.decay != "none"),
                ("data.sample must be empty", bool(self.data.sample)),
                ("data.train must be a folder, no glob", any(c in self.data.train for c in "*?[")),
            ):
                if wrong:
                    raise ValueError(f"{key} with data.follow: what is still to come has no end")
        return self

    def schema_path(self) -> Path:
        return Path(self.data.data_schema) if self.data.data_schema else Path(self.data.path) / "schema.toml"
