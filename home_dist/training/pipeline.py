"""TorchRec's pipelines of a training step, with gradient accumulation."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torchrec.distributed.train_pipeline import TrainPipelineBase, TrainPipelineSparseDist
from torchrec.distributed.train_pipeline.gradient_accumulation import GradientAccumulationConfig, GradientAccumulationWrapper
from torchrec.optim.keyed import CombinedOptimizer

from home_dist.config import TrainSection
from home_dist.data.batch import Batch
from home_dist.distributed.ranks import Ranks
from home_dist.layers.step_check import StepCheck
from home_dist.network import StepOutput
from home_dist.training.build import Built
from home_dist.training.optimizers import Schedule


class _Overlapping(TrainPipelineSparseDist[Batch, StepOutput]):
    after_backward: Callable[[], None]

    def _backward(self, losses: torch.Tensor) -> None:
        super()._backward(losses)
        self.after_backward()


class _OneByOne(TrainPipelineBase[Batch, StepOutput]):
    after_backward: Callable[[], None]

    def _backward(self, losses: torch.Tensor) -> None:
        super()._backward(losses)
        self.after_backward()


class Pipeline(GradientAccumulationWrapper[Batch, StepOutput]):
    """A pipeline of TorchRec's. Its optimizer steps after each step of the run whose number is a multiple of `accumulate`, and
    after the last one. Steps are counted from the run's begin, see `set_step`, and not from that of a round or a restart, so
    that checkpoints, at multiples too, lie between updates.
    """

    def __init__(
        self,
        start: Callable[[Callable[[], None]], Any],
        model: nn.Module,
        optimizer: CombinedOptimizer,
        accumulate: int,
        check: StepCheck,
    ):
        """start: makes a pipeline of TorchRec's that calls its argument between the backward and the optimizers."""
        self._updates, self._check = True, check
        self._start = lambda: start(lambda: check.after_backward(self._updates))
        super().__init__(self._start(), optimizer, model, GradientAccumulationConfig(num_steps=accumulate))
        self._pipeline: Any

    @staticmethod
    def of(built: Built, ranks: Ranks, accumulate: int, overlap: bool = True) -> "Pipeline":
        """overlap: exchanges the ids of the next batch beside the step; without it one thing is done after another."""
        model, optimizer, device = built.model, built.optimizer, ranks.device

        # Where all tables are small and replicated there is no exchange of ids to overlap, and nothing sharded at which the
        # tracing of the model would stop.
        def start(after_backward: Callable[[], None]) -> Any:
            pipeline: _Overlapping | _OneByOne
            if overlap and built.plan.plan:
                pipeline = _Overlapping(model, optimizer, device, execute_all_batches=True)
            else:
                pipeline = _OneByOne(model, optimizer, device)
            pipeline.after_backward = after_backward
            return pipeline

        return Pipeline(start, model, optimizer, accumulate, built.check)

    def progress(self, dataloader_iter: Iterator[Batch], is_last_batch: bool | None = None) -> StepOutput:
        self._updates = self._should_sync_grad(is_last_batch=bool(is_last_batch))
        return super().progress(dataloader_iter, is_last_batch)

    def _should_sync_grad(self, is_last_batch: bool = False) -> bool:
        """TorchRec's sums over ranks after the very first batch, too, so that a run that goes on would add up in another order
        than one that was not stopped."""
        return is_last_batch or (self.current_step + 1) % self._config.num_steps == 0

    def detach(self) -> None:
        """For a use of the model without the pipeline. The next batch may come from another iterator."""
        if isinstance(self._pipeline, TrainPipelineSparseDist):
            self._pipeline.detach()
        else:
            self._pipeline = self._start()  # TorchRec's base pipeline does not go on once its iterator has ended
            if self._config.is_enabled:
                self._pipeline._optimizer = self._optimizer_wrapper


def begin_step(built: Built, schedule: Schedule, config: TrainSection, step: int, rank: int) -> float:
    """What comes before Pipeline.progress; step: those done before. Returns the learning rate."""
    rate = schedule.set(step)
    if config.accumulate > 1:
        # Hands the rate to sharded tables' updates, which the pipeline then does only once per dense update.
        built.model.fused_optimizer.zero_grad()
    torch.manual_seed(_seed(config.seed, step, rank))
    return rate


def _seed(seed: int, step: int, rank: int) -> int:
    """Dropout of a step is a function of these three, so that a resumed run draws the same and no state is kept."""
    return hash((seed, step, rank)) & 0x7FFFFFFFFFFFFFFF
