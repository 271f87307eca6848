"""Handles refused steps, whose loss or gradients are not finite: the run ends with an explanation, or skips and counts them."""

import math
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist

from home_dist.data.batch import Batch
from home_dist.distributed.ranks import OtherRankFailed
from home_dist.errors import UserError
from home_dist.network import StepOutput
from home_dist.schema import DenseFeature, InputLayout
from home_dist.training.run import Run

MOST_IN_SEQUENCE = 50
"""So many consecutive refused steps end a run in any case: bad rows would be spread, so the parameters must be at fault, and
refused steps do not change them."""

_COLUMNS = 5
"""Columns in a message at most, those with the largest values."""


class NotFinite(UserError):
    """A step whose loss or gradients are not finite."""

    exit_code = 6


@dataclass(frozen=True)
class Largest:
    """The largest value of a column in a rank's batch."""

    column: str
    value: float
    rank: int
    sample: int
    """Position in the rank's batch, from 0."""
    group: int

    @property
    def order(self) -> float:
        return math.inf if math.isnan(self.value) else abs(self.value)

    def __str__(self) -> str:
        return f"{self.column} = {self.value:.4g} (rank {self.rank}, sample {self.sample} of its batch, group {self.group})"


class Refusals:
    """Every rank has one and calls `after` after each step."""

    def __init__(self, run: Run):
        self.check, self.config, self.layout = run.built.check, run.inputs.config.train, run.inputs.layout
        self.tasks, self.ranks, self.screen, self.log, self.saver = run.tasks, run.ranks, run.screen, run.log, run.saver
        self.count = 0
        """Steps refused in this process."""
        self._sequence = 0
        self._unread: tuple[int, torch.Tensor, Batch, torch.Tensor] | None = None

    def after(self, step: int, output: StepOutput) -> StepOutput:
        """Call it after step `step`; returns its output, with zeros for a refused step. Raises NotFinite on the first rank and
        OtherRankFailed on the others, for this step or, if the host reads results a step late, for the one before."""
        check = self.check
        if check.refused is None or check.task_losses is None:
            return output
        if not check.late:
            return without(output) if self._read((step, check.refused, check.batch, check.task_losses)) else output
        self.settle()
        self._unread = (step, check.refused, check.batch, check.task_losses)
        return chosen(output, check.refused)

    def settle(self) -> None:
        """Reads the result of the last step, if it has not been read yet."""
        unread, self._unread = self._unread, None
        if unread is not None:
            self._read(unread)

    def _read(self, unread: tuple[int, torch.Tensor, Batch, torch.Tensor]) -> bool:
        """Whether the step was refused. Waits for the device. Raises as `after` does."""
        step, refused, batch, task_losses = unread
        if not bool(refused):
            self._sequence = 0
            return False
        self.count, self._sequence = self.count + 1, self._sequence + 1
        message = f"step {step:,}: {self._told(batch, task_losses)}"
        if self.ranks.first:
            self.log.refused(step, self.count)
        if self.config.on_nonfinite == "skip" and self._sequence < MOST_IN_SEQUENCE:
            self.screen.say(f"note: {message} The step is left out, the {_ordinal(self.count)} of this process.")
            return True
        self.saver.wait()
        if not self.ranks.first:
            raise OtherRankFailed(NotFinite.exit_code)
        newest = self.saver.checkpoints.newest()
        kept = f"The newest checkpoint, {newest}, is of before" if newest is not None else "There is no checkpoint yet"
        if self.config.on_nonfinite == "skip":
            advice = (
                f"{MOST_IN_SEQUENCE} steps in sequence were left out, so that the parameters are beyond repair by other rows: "
                "start from an older checkpoint or anew, with a lower train.lr or embedding.lr."
            )
        else:
            advice = (
                "Where values are extreme, mend these rows or clip the column; where they are as they should be, lower "
                'train.lr or embedding.lr; train.on_nonfinite = "skip" goes on without such steps.'
            )
        raise NotFinite(f"{message} Nothing was changed by it. {kept}. {advice}")

    def _told(self, batch: Batch, task_losses: torch.Tensor) -> str:
        broken = [t for t, loss in zip(self.tasks, task_losses.tolist(), strict=True) if not math.isfinite(loss)]
        own = (broken, largest_values(batch, self.layout, self.tasks, self.ranks.rank))
        by_rank = [own] * self.ranks.world_size
        dist.all_gather_object(by_rank, own)
        tasks = [t for t in self.tasks if any(t in names for names, _ in by_rank)]
        fault = (
            f"the loss of {_named('task', tasks)} is" if tasks else "a gradient or a statistic is too large to be squared, or"
        )
        largest = sorted((value for _, values in by_rank for value in values), key=lambda v: -v.order)[:_COLUMNS]
        return f"{fault} not finite. Largest values of its batch: {'; '.join(map(str, largest)) or 'none, it holds ids alone'}."


def largest_values(batch: Batch, layout: InputLayout, tasks: list[str], rank: int) -> list[Largest]:
    """Largest values among the columns of dense values, pre-trained vectors and label weights, named by feature or task. Waits
    for the device."""
    widths = [(f.name, f.width if isinstance(f, DenseFeature) else 1) for f in layout.dense]
    vectors = [(f.name, f.width + 1) for f in layout.pretrained]
    weights = [(f"weight of task {t}", 1) for t in tasks]
    largest = []
    for values, columns in ((batch.dense, widths), (batch.vectors, vectors), (batch.weights, weights)):
        if not len(values):
            continue
        first = 0
        for name, width in columns:
            part = values[:, first : first + width]
            first += width
            # torch.max takes NaN for the largest value.
            size, place = part.abs().flatten().max(0) if part.numel() else (None, None)
            if size is not None and place is not None:
                sample, column = divmod(int(place), width)
                label = name if width == 1 else f"{name}[{column}]"
                largest.append(Largest(label, float(part[sample, column]), rank, sample, int(batch.groups[sample])))
    return sorted(largest, key=lambda v: -v.order)[:_COLUMNS]


def without(output: StepOutput) -> StepOutput:
    """A refused step's output, zeroed so that it counts neither in losses nor in metrics."""
    return chosen(output, torch.ones((), device=output.scores.device))


def chosen(output: StepOutput, refused: torch.Tensor) -> StepOutput:
    """The output, zeroed on the device if `refused`, (), is above 0."""

    def kept(values: torch.Tensor) -> torch.Tensor:
        return torch.where(refused > 0, torch.zeros_like(values), values)

    return replace(
        output,
        scores=kept(output.scores),
        weights=kept(output.weights),
        loss_sums=kept(output.loss_sums),
        weight_sums=kept(output.weight_sums),
        auxiliary={name: kept(loss) for name, loss in output.auxiliary.items()},
    )


def _named(noun: str, names: list[str]) -> str:
    return f"{noun}{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _ordinal(number: int) -> str:
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{ending}"
