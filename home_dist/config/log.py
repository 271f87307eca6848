"""The [log] section: how often a run reports progress, and where to besides the screen."""

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from home_dist.config.section import Section


class MlflowSection(Section):
    """A run of MLflow that gets this run's settings, figures and end. Needs the extra `mlflow`."""

    uri: str = Field(min_length=1)
    """Tracking server, such as http://127.0.0.1:5000. User and password stand in MLflow's own variables."""
    experiment: str = Field(default="home_dist", min_length=1)
    """Made where there is none of this name."""
    name: str = ""
    """Of the run there; by default the name of run.dir's last folder."""

    @field_validator("uri")
    @classmethod
    def _without_password(cls, uri: str) -> str:
        if "@" in urlsplit(uri).netloc:
            raise ValueError(
                "holds a user or password, which a run's files would keep. Set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD in their place"
            )
        return uri


class WandbSection(Section):
    """A run of Weights & Biases that gets this run's settings, figures and end. Needs the extra `wandb`."""

    project: str = Field(min_length=1)
    """Where its runs are listed."""
    entity: str = ""
    """User or team; by default that of the login."""
    name: str = ""
    """Of the run there; by default the name of run.dir's last folder."""
    mode: Literal["online", "offline"] = "online"
    """offline: into run.dir/wandb, for `wandb sync` later."""


class LogSection(Section):
    every_steps: int = Field(default=20, ge=1)
    """Steps between lines of progress, whose figures also go to TensorBoard and the trackers below."""
    tensorboard: bool = True
    """Whether run.dir/tensorboard is written."""
    mlflow: MlflowSection | None = None
    """A run of MLflow that gets the figures; by default none."""
    wandb: WandbSection | None = None
    """A run of Weights & Biases that gets the figures; by default none."""
