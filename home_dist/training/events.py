"""The figures of a run, told by the first rank to TensorBoard and to trackers."""

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from home_dist.evaluation.screen_tables import COLUMNS, OF_REQUESTS
from home_dist.insight.store import Figures, Floats, Names
from home_dist.insight.sums import EDGES
from home_dist.metrics import TaskMetrics, mean_row
from home_dist.training.progress import IntervalFigures
from home_dist.training.running_metrics import METRICS
from home_dist.training.tracking import Trackers

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class EventLog:
    """Writes curves, histograms and images for TensorBoard, unless `folder` is None. Losses, rates and metrics go to `trackers`
    as well, if there are any."""

    def __init__(self, folder: Path | None, from_step: int, trackers: Trackers | None = None):
        self._folder, self._from_step, self._trackers = folder, from_step, trackers
        self._plots: dict[str, dict[str, list[Any]]] = {}

    @cached_property
    def _writer(self) -> "SummaryWriter | None":
        if self._folder is None:
            return None
        # Imported at the first event: it takes a third of a second, and most ranks and commands do not need it.
        from torch.utils.tensorboard import SummaryWriter

        # A resumed run drops events after its checkpoint: it will write them again.
        writer = SummaryWriter(str(self._folder), purge_step=self._from_step + 1)
        if self._plots:
            writer.add_custom_scalars(self._plots)
        return writer

    def prepare(self) -> None:
        """Opens the file before the first event, so that this is not taken for training time."""
        self._writer  # noqa: B018

    def step(self, step: int, interval: IntervalFigures, rate: float, tasks: Sequence[str]) -> None:
        scalars = {
            "train/loss": interval.loss,
            "train/samples_per_second": interval.samples_per_second,
            "train/waiting_for_data": interval.wait_share,
            "train/learning_rate": rate,
        }
        scalars |= {f"train_loss/{t}": loss for t, loss in zip(tasks, interval.task_losses, strict=True)}
        for metric, values in interval.running.items():
            of_tasks = zip(tasks, values, strict=True)  # NaN: not defined, as the AUC of a regression
            scalars |= {f"train_{metric}/{t}": value for t, value in of_tasks if not math.isnan(value)}
        scalars |= {f"train_auxiliary/{name}": loss for name, loss in interval.auxiliary.items()}
        self._write(scalars, step)

    def bad_rows(self, step: int, split: str, rows: int) -> None:
        self._write({f"{split}/bad_rows": rows}, step)

    def refused(self, step: int, steps: int) -> None:
        self._write({"train/steps_left_out": steps}, step)

    def evaluation(self, step: int, split: str, metrics: Sequence[TaskMetrics]) -> None:
        for family, columns in COLUMNS.items():
            tasks = [m for m in metrics if m.family == family]
            if tasks:
                rows = (*tasks, mean_row(tasks))
                self._write({f"{split}_{n}/{m.task}": getattr(m, n) for m in rows for n, _ in columns}, step)
        self._write({f"{split}_{n}/{m.task}": getattr(m, n) for m in metrics if m.requests for n, _ in OF_REQUESTS}, step)

    def insight(self, step: int, figures: Figures, names: Names) -> None:
        """Curves and histograms per expert; per layer an image of each expert's (column) contribution to each gate (row), in
        the order of names.json."""
        if self._writer is None:
            return
        scalars: dict[str, float] = {}
        for n, part in enumerate(names.parts):
            for figure in ("std", "zero_rate", "gradient"):
                scalars |= {f"expert_{figure}/{e}": x for e, x in zip(part.experts, figures[f"{n}.{figure}"], strict=True)}
            for expert, counts in zip(part.experts, figures[f"{n}.histogram"], strict=True):
                self._histogram(f"outputs/{expert}", counts, step)
            if part.gates:
                effective = figures[f"{n}.effective"]
                scalars |= {f"gate_effective_experts/{g}": x for g, x in zip(part.gates, effective, strict=True)}
                self._writer.add_image(f"gates/layer_{n}", _image(figures[f"{n}.contribution"]), step, dataformats="HWC")
        self._write(scalars, step, tracked=False)

    def finding(self, step: int, text: str) -> None:
        if self._writer is not None:
            self._writer.add_text("findings", text, step)

    def layout(self, names: Names) -> None:
        """Defines plots for TensorBoard's Custom Scalars tab: all tasks, or all experts of a layer, in one plot. Called before
        the first event."""
        if not names.parts:
            return
        task_plots = {name: ["Multiline", [f"train_{name}/{t}" for t in names.tasks]] for name in ("loss", *METRICS)}
        plots: dict[str, dict[str, list[Any]]] = {"tasks": task_plots}
        for n, part in enumerate(names.parts):
            layer = plots.setdefault(f"layer {n}", {})
            for figure in ("std", "zero_rate", "gradient"):
                layer[f"expert {figure}"] = ["Multiline", [f"expert_{figure}/{expert}" for expert in part.experts]]
            if part.gates:
                layer["effective experts"] = ["Multiline", [f"gate_effective_experts/{gate}" for gate in part.gates]]
        self._plots = plots

    def _histogram(self, name: str, shares: Floats, step: int) -> None:
        if self._writer is None:
            return
        limits = [*EDGES.tolist(), 10 * EDGES[-1].item()]
        middles = np.asarray(limits) - np.diff(limits, prepend=10 * limits[0]) / 2
        moments = {"sum": float(shares @ middles), "sum_squares": float(shares @ np.square(middles))}
        filled = np.flatnonzero(shares)
        low, high = (limits[filled[0]], limits[filled[-1]]) if len(filled) else (0.0, 0.0)
        self._writer.add_histogram_raw(
            name, min=low, max=high, num=1, **moments, bucket_limits=limits, bucket_counts=shares.tolist(), global_step=step
        )

    def _write(self, scalars: dict[str, float], step: int, tracked: bool = True) -> None:
        if self._trackers is not None and tracked:
            self._trackers.hand(step, scalars)
        if self._writer is not None:
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        writer = self.__dict__.get("_writer")
        if writer is not None:
            writer.close()


_SHADES = np.array([[247, 251, 255], [107, 174, 214], [8, 48, 107]], dtype=np.float64)
_CELL = 24  # pixels


def _image(shares: Floats) -> np.ndarray:
    """Shares (K, E) between 0 and 1 -> pixels, from white (0) to dark blue (1)."""
    shades = np.clip(shares, 0, 1) * (len(_SHADES) - 1)
    below = np.minimum(shades.astype(np.int64), len(_SHADES) - 2)
    part = (shades - below)[..., None]
    colours = _SHADES[below] * (1 - part) + _SHADES[below + 1] * part
    return colours.astype(np.uint8).repeat(_CELL, 0).repeat(_CELL, 1)
