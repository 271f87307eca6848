"""The progress line of a training run."""

import time
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from home_dist.network import StepOutput


@dataclass(frozen=True)
class IntervalFigures:
    """Figures of the interval between two progress lines, over all ranks."""

    loss: float
    """Sum over tasks of each task's mean loss."""
    task_losses: list[float]
    samples_per_second: float
    wait_share: float
    """Share of the ranks' time spent waiting for data."""
    auxiliary: dict[str, float] = field(default_factory=dict)
    """Losses that belong to no task, by name: means over steps and ranks."""
    running: dict[str, list[float]] = field(default_factory=dict)
    """By metric, one value per task, of the interval's samples; see running_metrics.py."""


class Meter:
    """Adds up a rank's steps, and the ranks' sums once per interval."""

    def __init__(self, tasks: int):
        self._tasks = tasks
        self._sums: torch.Tensor | None = None  # on the steps' device, so that `add` does not wait for the device
        self._samples: torch.Tensor | None = None
        self._auxiliary: dict[str, torch.Tensor] = {}
        self._steps = 0
        self._began = time.perf_counter()

    def add(self, output: StepOutput) -> None:
        sums = torch.cat([output.loss_sums, output.weight_sums]).double()
        self._sums = sums if self._sums is None else self._sums + sums
        self._samples = output.samples if self._samples is None else self._samples + output.samples
        for name, loss in output.auxiliary.items():
            self._auxiliary[name] = self._auxiliary[name] + loss if name in self._auxiliary else loss.double()
        self._steps += 1

    def state(self) -> dict[str, Any]:
        """State of an unfinished interval for a checkpoint, so that a resumed run reports the same losses for the interval."""
        sums = None if self._sums is None else self._sums.tolist()
        return {"sums": sums, "auxiliary": {n: float(x) for n, x in self._auxiliary.items()}, "steps": self._steps}

    def resume(self, states: list[dict[str, Any]], device: torch.device) -> None:
        """states: of all ranks of the stopped run. If the number of ranks has changed, the first rank takes all sums."""
        rank, world = dist.get_rank(), dist.get_world_size()
        own_states = [states[rank]] if len(states) == world else states if rank == 0 else []
        for state in own_states:
            if state["sums"] is not None:
                sums = torch.tensor(state["sums"], dtype=torch.float64, device=device)
                self._sums = sums if self._sums is None else self._sums + sums
            for name, loss in state["auxiliary"].items():
                extra = torch.tensor(loss, dtype=torch.float64, device=device)
                self._auxiliary[name] = self._auxiliary[name] + extra if name in self._auxiliary else extra
            self._steps += state["steps"]

    def restart_clock(self) -> None:
        """Leaves the steps so far out of the rate, because the first steps are slow. Waits until the device has done them."""
        if self._sums is not None:
            self._sums.cpu()
        self._samples, self._began = None, time.perf_counter()

    def close(self, waited: float) -> IntervalFigures:
        """Ends the interval. Collective. waited: seconds that this rank has waited for data since the clock began."""
        sums = torch.zeros(2 * self._tasks).double() if self._sums is None else self._sums.cpu()
        samples = 0.0 if self._samples is None else float(self._samples)
        names = sorted(self._auxiliary)  # the same on all ranks, as the model defines them
        extra = [self._auxiliary[name].reshape(1).cpu() for name in names]
        seconds = time.perf_counter() - self._began  # now that the device has done the steps: a queue of them takes no time
        counts = torch.tensor([samples, waited, seconds, self._steps], dtype=torch.float64)
        packed = torch.cat([sums, counts, *extra])
        dist.all_reduce(packed)
        losses, weights = packed[: self._tasks], packed[self._tasks : 2 * self._tasks]
        samples, waited, seconds, steps, *totals = packed[2 * self._tasks :].tolist()
        means = (losses / weights.clamp(min=1e-12)).tolist()
        auxiliary = {name: total / steps for name, total in zip(names, totals, strict=True)}
        self._sums, self._auxiliary, self._steps = None, {}, 0
        self.restart_clock()
        return IntervalFigures(sum(means), means, samples / (seconds / dist.get_world_size()), waited / seconds, auxiliary)


def parts(step: int, steps: int, interval: IntervalFigures, ranks: int, seconds_left: float) -> list[str]:
    """Of a line of progress."""
    rate = interval.samples_per_second
    extra = "".join(f" + {name} {value:.4g}" for name, value in interval.auxiliary.items())
    return [
        f"step {step:>{len(str(steps))}}/{steps} {step / steps:4.0%}",
        f"loss {interval.loss:.4f}{extra}",
        f"{_rate(rate / ranks)} samples/s per rank, {_rate(rate)} total",
        f"waiting for data {interval.wait_share:.1%}",
        f"ETA {_clock(seconds_left)}",
    ]


def first_step(seconds: float | None) -> str:
    """A line about the start. seconds: from the begin of the process to the end of its first step; empty if not known."""
    return "" if seconds is None else f"first step done {seconds:.1f} s after this process began"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value else "-"  # no step has been timed yet


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
