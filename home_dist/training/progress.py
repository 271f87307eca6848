"""The line that a run prints while it trains."""

import time
from dataclasses import dataclass

import torch
import torch.distributed as dist

from home_dist.network import StepOutput


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
        self._sums: torch.Tensor | None = None  # on the steps' device, so that adding up waits for nothing
        self._samples: torch.Tensor | None = None
        self._began = time.perf_counter()

    def add(self, output: StepOutput) -> None:
        sums = torch.cat([output.loss_sums, output.weight_sums]).double()
        self._sums = sums if self._sums is None else self._sums + sums
        self._samples = output.samples if self._samples is None else self._samples + output.samples

    def restart_clock(self) -> None:
        """Leaves the steps so far out of the rate, because the first ones are slow."""
        self._samples, self._began = None, time.perf_counter()

    def close(self, waited: float) -> Interval:
        """Ends the interval; every rank calls it. waited: seconds that this rank has waited for data since the clock began."""
        seconds = time.perf_counter() - self._began
        sums = torch.zeros(2 * self._tasks).double() if self._sums is None else self._sums.cpu()
        samples = 0.0 if self._samples is None else float(self._samples)
        packed = torch.cat([sums, torch.tensor([samples, waited, seconds], dtype=torch.float64)])
        dist.all_reduce(packed)
        losses, weights = packed[: self._tasks], packed[self._tasks : 2 * self._tasks]
        samples, waited, seconds = packed[2 * self._tasks :].tolist()
        means = (losses / weights.clamp(min=1e-12)).tolist()
        self._sums = None
        self.restart_clock()
        return Interval(sum(means), means, samples / (seconds / dist.get_world_size()), waited / seconds)


def line(step: int, steps: int, interval: Interval, ranks: int, seconds_left: float) -> str:
    rate = interval.samples_per_second
    return (
        f"step {step:>{len(str(steps))}}/{steps} {step / steps:4.0%} | loss {interval.loss:.4f} | "
        f"{_rate(rate / ranks)} samples/s per rank, {_rate(rate)} total | waiting for data {interval.wait_share:.1%} | "
        f"ETA {_clock(seconds_left)}"
    )


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value else "-"  # no step has been timed yet


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
