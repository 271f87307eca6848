"""TorchRec's training pipelines, with gradient accumulation."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torchrec.distributed.train_pipeline import (
    PrefetchTrainPipelineSparseDist,
    TrainPipelineBase,
    TrainPipelineSparseDist,
)
from torchrec.distributed.train_pipeline.gradient_accumulation import GradientAccumulationConfig, GradientAccumulationWrapper
from torchrec.optim.keyed import CombinedOptimizer

from home_dist.config import TrainSection
from home_dist.data.batch import Batch
from home_dist.distributed.ranks import Ranks
from home_dist.layers.step_check import StepCheck
from home_dist.network import StepOutput
from home_dist.training.build import Built
from home_dist.training.optimizers import Schedule

TRACING = threading.Lock()
"""Held while TorchRec traces the model, during which torch.fx takes calls of any module in this process, of any thread, for the
model's. Other threads hold it while they call modules."""


class _Tracing:
    def _pipeline_model(self, *args: Any, **kwargs: Any) -> None:
        with TRACING:
            super()._pipeline_model(*args, **kwargs)  # type: ignore[misc]


class _Overlapping(_Tracing, TrainPipelineSparseDist[Batch, StepOutput]):
    after_backward: Callable[[], None]

    def _backward(self, losses: torch.Tensor) -> None:
        super()._backward(losses)
        self.after_backward()


class _Prefetching(_Tracing, PrefetchTrainPipelineSparseDist[Batch, StepOutput]):
    """Also fetches the next batch's rows into the tables' caches. TorchRec's runs the backward without a method of its own, so
    that the optimizer calls `after_backward`."""

    after_backward: Callable[[], None]

    def __init__(self, model: nn.Module, optimizer: CombinedOptimizer, device: torch.device):
        after = _AfterBackward(optimizer, lambda: self.after_backward())
        super().__init__(model, after, device, execute_all_batches=True)


class _AfterBackward:
    """An optimizer whose step calls a function first."""

    def __init__(self, optimizer: CombinedOptimizer, function: Callable[[], None]):
        self._optimizer, self._function = optimizer, function

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._optimizer.zero_grad(set_to_none)

    def step(self, closure: Any = None) -> None:
        self._function()
        self._optimizer.step(closure)


class _OneByOne(TrainPipelineBase[Batch, StepOutput]):
    after_backward: Callable[[], None]

    def _backward(self, losses: torch.Tensor) -> None:
        super()._backward(losses)
        self.after_backward()


class Pipeline(GradientAccumulationWrapper[Batch, StepOutput]):
    """A TorchRec pipeline that updates dense parameters after each step whose number is a multiple of `accumulate`, and after
    the last step. Steps are counted from the start of the run (see `set_step`), not of a round or a restart, so that
    checkpoints, also at multiples, lie between updates.
    """

    def __init__(
        self,
        start: Callable[[Callable[[], None]], Any],
        model: nn.Module,
        optimizer: CombinedOptimizer,
        accumulate: int,
        check: StepCheck,
    ):
        """start: makes a TorchRec pipeline that calls start's argument between the backward and the optimizers."""
        self._updates, self._check = True, check
        self._start = lambda: start(lambda: check.after_backward(self._updates))
        super().__init__(self._start(), optimizer, model, GradientAccumulationConfig(num_steps=accumulate))
        self._pipeline: Any

    @staticmethod
    def of(built: Built, ranks: Ranks, accumulate: int, overlap: bool = True, prefetch: bool = False) -> "Pipeline":
        """overlap: exchange the next batch's ids during the step; without it, nothing overlaps. prefetch: also fetch the rows
        of cached tables."""
        model, optimizer, device = built.model, built.optimizer, ranks.device

        # If all tables are small and replicated, there are no ids to exchange, and tracing the model would find no sharded
        # module to stop at.
        def start(after_backward: Callable[[], None]) -> Any:
            pipeline: _Overlapping | _Prefetching | _OneByOne
            if overlap and built.plan.plan and prefetch:
                pipeline = _Prefetching(model, optimizer, device)
            elif overlap and built.plan.plan:
                pipeline = _Overlapping(model, optimizer, device, execute_all_batches=True)
            else:
                pipeline = _OneByOne(model, optimizer, device)
            pipeline.after_backward = after_backward
            return pipeline

        return Pipeline(start, model, optimizer, accumulate, built.check)

    @property
    def updates(self) -> bool:
        """Whether the last step updated the dense parameters, unless it was refused."""
        return self._updates

    def progress(self, dataloader_iter: Iterator[Batch], is_last_batch: bool | None = None) -> StepOutput:
        self._updates = self._should_sync_grad(is_last_batch=bool(is_last_batch))
        return super().progress(dataloader_iter, is_last_batch)

    def _should_sync_grad(self, is_last_batch: bool = False) -> bool:
        """Whether this step updates. TorchRec's version also synchronises gradients after the very first batch, so that a
        resumed run would add gradients in another order than an uninterrupted one."""
        return is_last_batch or (self.current_step + 1) % self._config.num_steps == 0

    def detach(self) -> None:
        """Frees the model for use without the pipeline. The next batch may come from another iterator."""
        if isinstance(self._pipeline, TrainPipelineSparseDist):
            self._pipeline.detach()
        else:
            self._pipeline = self._start()  # TorchRec's base pipeline cannot continue after its iterator has ended
            if self._config.is_enabled:
                self._pipeline._optimizer = self._optimizer_wrapper


def begin_step(built: Built, schedule: Schedule, config: TrainSection, step: int, rank: int) -> float:
    """Sets rates and the seed; call it before Pipeline.progress. step: number of steps done. Returns the learning rate."""
    rate = schedule.set(step)
    if config.accumulate > 1:
        # Passes the rate on to sharded tables, which with accumulation the pipeline does only once per dense update.
        built.model.fused_optimizer.zero_grad()
    torch.manual_seed(_seed(config.seed, step, rank))
    return rate


def _seed(seed: int, step: int, rank: int) -> int:
    """Seed of a step's dropout, from these three alone: a resumed run draws the same numbers without a stored state."""
    return hash((seed, step, rank)) & 0x7FFFFFFFFFFFFFFF
