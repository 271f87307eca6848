"""The file that `home-dist daily` reads."""

from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from home_dist.config import load_config
from home_dist.config.publish import RowType
from home_dist.config.section import Count, Section
from home_dist.config.stopping import SMALLER_IS_BETTER
from home_dist.config.toml_file import read_model
from home_dist.errors import ConfigError
from home_dist.files.places import is_remote


class RuleSection(Section):
    """A day's model is kept if it is not worse, on that day's held-out users, than the model that it began with."""

    metric: Literal["auc", "gauc", "log_loss"] = "log_loss"
    """Mean over tasks. Log loss also sees a model whose order is right while its probabilities have gone astray."""
    worse_by: float = Field(default=0.01, ge=0)
    """How much worse it may be: more than what chance does on the held-out users."""

    def keeps(self, before: float, after: float) -> bool:
        """Values of the metric: of the model that the day began with, and of the day's. An undefined one rejects nothing."""
        worse = after - before if self.metric in SMALLER_IS_BETTER else before - after
        return not worse > self.worse_by


class ExportSection(Section):
    format: Literal["program", "safetensors"] = "program"
    """As `home-dist export --format`."""
    embeddings: Literal["fp32", "fp16", "int8"] = "fp32"
    """As `home-dist export --embeddings`."""


class VersionsSection(Section):
    to: str = Field(min_length=1)
    """Folder, or URL (s3://bucket/model), of the versions."""
    rows: RowType = "fp32"
    """How rows of tables are written."""
    keep: Count = 3
    """Newest versions that stay, and those that they build on."""


class DailySection(Section):
    description: str
    """The log's description, as `home-dist prepare` reads it. Paths are relative to this file's folder."""
    run: str
    """Configuration of the runs; its data.path and run.dir are set for each day."""
    out: str
    """Folder for all that is written."""
    first_day: date
    """Last day of the first preparation, by the log's calendar. A first model is trained on the log up to it."""
    last_day: date | None = None
    """The last day to take; by default the log's last day."""
    leave_newest: bool = False
    """Leave the log's last day for later: it may not be complete."""
    allow_gap: bool = False
    """Take a day although days before it are missing in the log."""
    skip_late: bool = False
    """Leave out rows of days that are done already, and say how many. By default they are an error, as --like has it."""
    hold_out: float = Field(default=0.1, ge=0, lt=1)
    """Share of each day's users who are not trained on but judge the day's model; with 0, every model is kept."""
    ranks: Count = 1
    """Of each training, on this machine."""
    set: tuple[str, ...] = ()
    """Settings of the days after the first, as in --set: "train.lr=5e-4"."""
    rule: RuleSection = RuleSection()
    page: bool = True
    """Draws report.html of each day's data, which may take longer than a small day's preparation."""
    export: ExportSection | None = None
    """What is exported of each model that is kept; by default nothing."""
    publish: VersionsSection | None = None
    """Where each model that is kept is published as a full version, with the day's counts and histories; by default nowhere."""
    keep_days: Count | None = None
    """Data, runs and exports of so many last days are kept, and the newest kept model's; by default all."""

    @model_validator(mode="after")
    def _days_in_order(self) -> "DailySection":
        if self.last_day is not None and self.last_day < self.first_day:
            raise ValueError(f"last_day {self.last_day} lies before first_day {self.first_day}")
        return self


def load_daily(path: Path) -> DailySection:
    """The section, with paths from the working folder. Raises ConfigError, for the configuration of its runs too."""
    section = read_model(
        path, DailySection, "Give a TOML file that names a description, a run and a folder; docs/howto/new-days.md shows one."
    )
    places = {key: str(path.parent / getattr(section, key)) for key in ("description", "run", "out")}
    section = section.model_copy(update=places)
    if section.publish is not None and not is_remote(section.publish.to):
        published = section.publish.model_copy(update={"to": str(path.parent / section.publish.to)})
        section = section.model_copy(update={"publish": published})
    if not Path(section.description).is_file():
        raise ConfigError(f"{path}: description: {section.description}: no such file.")
    run = load_config(Path(section.run), section.set)
    if run.publish is not None:
        raise ConfigError(
            f"{section.run}: a day's model is published once it is kept: leave [publish] out, and give `publish` of {path}: "
            "publish = { to = PLACE }"
        )
    if run.train.distillation is not None:
        raise ConfigError(
            f"{section.run}: days are prepared without a teacher's predictions: leave [train.distillation] out, or train on "
            "files that hold them by `home-dist train`"
        )
    return section
