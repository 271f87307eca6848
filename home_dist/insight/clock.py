"""Where the time of a sampled step goes on this rank.

| part | from | to |
|---|---|---|
| input | the step's begin | the forward pass: waiting for data, copying, exchange of ids |
| look-up | | feature vectors and histories are there: embeddings and their exchange |
| model | | the loss: feature vector, sequences, experts, towers |
| backward | | the optimizer: gradients, their all-reduce, updates of sharded tables |
| optimizer | | all other parameters are updated |
| rest | | the step's end |

On a GPU the marks wait for what was launched, so that a part's work is counted in that part; only sampled steps pay for it.
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
        """Around a step; other hooks of the head run before this one's."""
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
        """(6,), as PARTS; looked: seconds that other hooks of the head took. NaN for a step of another shape."""
        if len(self._marks) != len(PARTS) + 1:
            return torch.full((len(PARTS),), torch.nan, dtype=torch.float64)
        found = torch.tensor(self._marks, dtype=torch.float64).diff()
        found[PARTS.index("model")] -= looked
        return found
