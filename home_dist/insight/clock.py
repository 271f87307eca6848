"""Splits the time of a sampled step on this rank into parts.

| part | from | to |
|---|---|---|
| input | the step's start | the forward pass: waiting for data, copying, exchange of ids |
| look-up | | the head's forward: embeddings and their exchange |
| model | | the loss: feature vector, sequences, experts, towers |
| backward | | the optimizer: gradients, their all-reduce, updates of sharded tables |
| optimizer | | all other parameters are updated |
| rest | | the step's end |

On a GPU each mark waits for the launched kernels, so that a part's work counts in that part; only sampled steps pay for it.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

PARTS = ("input", "look-up", "model", "backward", "optimizer", "rest")


class StepClock:
    def __init__(self, network: nn.Module, head: nn.Module, optimizer: Optimizer):
        self.network, self.head, self.optimizer = network, head, optimizer
        self._marks: list[float] = []

    @contextmanager
    def step(self) -> Iterator[None]:
        """Wraps a step. Register other hooks of the head first, so that they run before this clock's."""
        self._marks = []
        plain = self.optimizer.step

        def step(*arguments: Any, **options: Any) -> Any:
            self.mark()
            result = plain(*arguments, **options)
            self.mark()
            return result

        hooks = [
            self.network.register_forward_pre_hook(lambda *_: self.mark()),
            self.head.register_forward_pre_hook(lambda *_: self.mark()),
            self.head.register_forward_hook(lambda *_: self.mark()),
        ]
        self.optimizer.step = step  # type: ignore[method-assign]
        self.mark()
        try:
            yield
        finally:
            self.mark()
            del self.optimizer.step
            for hook in hooks:
                hook.remove()

    def mark(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._marks.append(time.perf_counter())

    def seconds(self, looked: float) -> torch.Tensor:
        """Seconds (6,) in the order of PARTS; NaN if the step did not pass all marks once. looked: seconds that other hooks of
        the head took, not counted in "model"."""
        if len(self._marks) != len(PARTS) + 1:
            return torch.full((len(PARTS),), torch.nan, dtype=torch.float64)
        seconds = torch.tensor(self._marks, dtype=torch.float64).diff()
        seconds[PARTS.index("model")] -= looked
        return seconds
