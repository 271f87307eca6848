"""Finds tasks whose labels are all unknown, or all the same: they train without an error and learn nothing."""

from collections.abc import Sequence

import torch
import torch.distributed as dist

from home_dist.network import StepOutput


class LabelWatch:
    """Every rank has one, adds every step and calls `notes` at the same step. Until then counts stay on the device."""

    def __init__(self, tasks: Sequence[str], device: torch.device):
        self._tasks = tasks
        self._highest = torch.full((2, len(tasks)), -torch.inf, dtype=torch.float64, device=device)
        """Highest known label, and the highest negated one."""
        self._known = torch.zeros(len(tasks), dtype=torch.float64, device=device)
        self._samples = torch.zeros((), dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, output: StepOutput) -> None:
        if len(output.labels):
            labels = output.labels.double()
            both = torch.stack([labels, -labels]).masked_fill(output.weights == 0, -torch.inf)
            self._highest = torch.maximum(self._highest, both.amax(1))
        self._known += output.weight_sums
        self._samples += output.samples

    def notes(self) -> list[str]:
        """A line per such task, by the samples of all ranks so far. Collective."""
        sums = torch.cat([self._known, self._samples.view(1)])
        if dist.is_initialized():
            dist.all_reduce(sums)
            dist.all_reduce(self._highest, dist.ReduceOp.MAX)
        known = sums[:-1].tolist()
        samples = f"the {int(sums[-1].item()):,} samples since this round or process began"
        notes = []
        for task, high, negated, total in zip(self._tasks, *self._highest.tolist(), known, strict=True):
            if not total:
                notes.append(
                    f"task {task!r}: none of {samples} has a known label: nothing was learned of it. Check its weights."
                )
            elif high == -negated:
                notes.append(f"task {task!r}: all known labels of {samples} are {high:g}: nothing was learned of it.")
        return notes
