"""A run's figures in Weights & Biases, by its own client."""

from pathlib import Path
from typing import Any

from home_dist.config.log import WandbSection
from home_dist.training.tracking import Scalars


class WandbTracker:
    def __init__(self, section: WandbSection, run: Path):
        self._section, self._folder, self._name = section, run, section.name or run.absolute().name
        self.label = "Weights & Biases"
        self.place = {"entity": section.entity, "project": section.project}
        self._run: Any = None

    def open(self, known: str | None, settings: dict[str, str]) -> str:
        import wandb

        # It would else print its own lines, read ours, and ask for a key on the terminal.
        quiet = wandb.Settings(console="off", silent=True)
        wandb.setup(settings=quiet)
        self._run = wandb.init(
            project=self._section.project,
            entity=self._section.entity or None,
            name=self._name,
            id=known,
            resume="allow",
            mode=self._section.mode,
            dir=str(self._folder),
            config=settings,
            allow_val_change=True,  # a run may resume with other settings of some kinds
            settings=quiet,
        )
        # A run that resumes from a checkpoint tells some steps again; wandb's own steps must not go back.
        self._run.define_metric("*", step_metric="step")
        return str(self._run.id)

    def log(self, step: int, scalars: Scalars, milliseconds: int) -> None:
        self._run.log({**scalars, "step": step, "_timestamp": milliseconds / 1000})

    def end(self, status: str) -> None:
        self._run.finish(exit_code=0 if status == "FINISHED" else 1)
