"""TensorBoard events of a run, written by the first rank."""

from collections.abc import Sequence
from pathlib import Path

from home_dist.metrics import TaskMetrics
from home_dist.training.progress import Interval


class EventLog:
    """Does nothing where `folder` is None."""

    def __init__(self, folder: Path | None, from_step: int):
        self._writer = None
        if folder is not None:
            # Imported here: it costs a second, and most ranks and commands do not need it.
            from torch.utils.tensorboard import SummaryWriter

            # Events after the checkpoint that a resumed run starts from are dropped: they will be written again.
            self._writer = SummaryWriter(str(folder), purge_step=from_step + 1)

    def step(self, step: int, interval: Interval, rate: float, tasks: Sequence[str]) -> None:
        scalars = {
            "train/loss": interval.loss,
            "train/samples_per_second": interval.samples_per_second,
            "train/waiting_for_data": interval.wait_share,
            "train/learning_rate": rate,
        }
        scalars |= {f"train_loss/{t}": loss for t, loss in zip(tasks, interval.task_losses, strict=True)}
        scalars |= {f"train_auxiliary/{name}": loss for name, loss in interval.auxiliary.items()}
        self._write(scalars, step)

    def evaluation(self, step: int, split: str, metrics: Sequence[TaskMetrics]) -> None:
        names = ("auc", "gauc", "log_loss", "calibration")
        self._write({f"{split}_{n}/{m.task}": getattr(m, n) for m in metrics for n in names}, step)

    def _write(self, scalars: dict[str, float], step: int) -> None:
        if self._writer is not None:
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
