"""The line that a run prints while it trains."""

import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Interval:
    """What happened between two lines, over all ranks."""

    loss: float
    """Sum over tasks of each task's mean loss."""
    task_losses: list[float]
    samples_per_second: float
    wait_share: float
    """Of the ranks' time, what they spent waiting for data."""


class Meter:
    """Adds up a rank's steps and joins the ranks' sums once per interval."""

    def __init__(self, tasks: int):
        self._tasks = tasks
        self._reset()

    def restart(self) -> None:
        """Forgets everything, such as the first steps, which are slow."""
        self._reset()

    def _reset(self) -> None:
        self._sums: torch.Tensor | None = None  # on the steps' device, so that adding up waits for nothing
        self._began = time.perf_counter()

    def add(self, output: Any) -> None:
        """output: a StepOutput."""
        step = torch.cat([output.loss_sums, output.weight_sums, output.samples.view(1)])
        self._sums = step.double() if self._sums is None else self._sums + step

    def close(self, waited: float) -> Interval:
        """Every rank calls it. waited: seconds that this rank has waited for data since the meter began."""
        seconds = time.perf_counter() - self._began
        sums = torch.zeros(2 * self._tasks + 1).double() if self._sums is None else self._sums.cpu()
        packed = torch.cat([sums, torch.tensor([waited, seconds], dtype=torch.float64)])
        dist.all_reduce(packed)
        losses, weights = packed[: self._tasks], packed[self._tasks : 2 * self._tasks]
        samples, all_waited, all_seconds = packed[2 * self._tasks :].tolist()
        means = (losses / weights.clamp(min=1e-12)).tolist()
        rate = samples / (all_seconds / dist.get_world_size())
        self._reset()
        return Interval(sum(means), means, rate, all_waited / all_seconds)


def line(step: int, steps: int, interval: Interval, ranks: int, seconds_left: float) -> str:
    rate = interval.samples_per_second
    return (
        f"step {step:>{len(str(steps))}}/{steps} {step / steps:4.0%} | loss {interval.loss:.4f} | "
        f"{rate / ranks:,.0f} samples/s per rank, {rate:,.0f} total | waiting for data {interval.wait_share:.1%} | "
        f"ETA {_clock(seconds_left)}"
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
