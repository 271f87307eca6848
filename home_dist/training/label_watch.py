"""Finds tasks whose labels are all unknown, or all of one class: they train without an error and learn nothing."""

from collections.abc import Sequence

import torch
import torch.distributed as dist

from home_dist.network import StepOutput


class LabelWatch:
    """Every rank has one, adds every step and calls `notes` at the same step. Until then counts stay on the device."""

    def __init__(self, tasks: Sequence[str], device: torch.device):
        self._tasks = tasks
        self._positives = torch.zeros(len(tasks), dtype=torch.float64, device=device)
        self._known = torch.zeros_like(self._positives)
        self._samples = torch.zeros((), dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, output: StepOutput) -> None:
        self._positives += (output.labels * output.weights).sum(0)
        self._known += output.weight_sums
        self._samples += output.samples

    def notes(self) -> list[str]:
        """A line per such task, by the samples of all ranks so far. Collective."""
        sums = torch.cat([self._positives, self._known, self._samples.view(1)])
        if dist.is_initialized():
            dist.all_reduce(sums)
        positives, known = sums[:-1].view(2, -1).tolist()
        samples = f"the {int(sums[-1].item()):,} samples since this round or process began"
        notes = []
        for task, positive, total in zip(self._tasks, positives, known, strict=True):
            if not total:
                notes.append(
                    f"task {task!r}: none of {samples} has a known label: nothing was learned of it. Check its weights."
                )
            elif positive in (0, total):
                label_class = "positive" if positive else "negative"
                notes.append(f"task {task!r}: all known labels of {samples} are {label_class}: nothing was learned of it.")
        return notes
