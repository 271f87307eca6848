"""Refuses a step whose loss, gradients or statistics are not finite: such a step changes nothing, on any rank.

FBGEMM updates rows of sharded tables inside the backward, before an optimizer can check gradients. So looked-up embeddings pass
through an identity before the head. The identity's backward runs after the whole head's: of the nodes that are ready, autograd
runs the one created last, and the head's nodes were created after the identity. At this point a rank knows its loss and its
gradients of dense parameters and of looked-up embeddings. The ranks agree by an all-reduce of one number. The order of messages
is the same on all ranks: reductions of dense gradients start before it, the exchange of embeddings' gradients after it.

A refused step's embedding gradients become zeros, which change no row under Adagrad, row-wise Adagrad or SGD. Dense optimizers
skip the step; running statistics and accumulated gradients are restored.

On a CPU, and with accumulation, the host reads in each step whether it was refused. On a GPU without accumulation it does not:
tensors select the outcome, and the host may read `refused` a step later, when the GPU has long computed it.
"""

from collections.abc import Collection, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedTensor

from home_dist.layers.global_norm import GlobalBatchNorm, several_ranks

LARGEST = 1e12
"""Largest norm of gradients that is accepted: optimizers add up squares over samples and steps, and the sums must stay finite
in fp32."""
LARGEST_FP16 = 65504.0
"""Largest element that is accepted if ranks exchange gradients as fp16."""

Events = dict[str, JaggedTensor]


class StepCheck:
    """Check of one model on this rank. Per step call `begin`, `through`, `heard` in the forward, then `after_backward`."""

    def __init__(
        self,
        head: nn.Module,
        accumulates: bool = False,
        dense_limit: float = LARGEST,
        lookup_limit: float = LARGEST,
        late: bool | None = None,
        apart: Collection[nn.Parameter] = (),
    ):
        """late: whether the host does not wait in each step for `refused`; by default on a GPU without accumulation. apart:
        parameters that not all ranks hold."""
        self._apart = set(apart)
        self.parameters = list(head.parameters())
        self._statistics = _as_one([m for m in head.modules() if isinstance(m, GlobalBatchNorm)])
        self.accumulates, self.dense_limit, self.lookup_limit = accumulates, dense_limit, lookup_limit
        cuda = any(p.device.type == "cuda" for p in self.parameters)
        self.late = cuda and not accumulates if late is None else late
        self.refused: torch.Tensor | None = None
        """() float32: 1 if the last step is refused, else 0; the same on all ranks."""
        self.batch: Any = None
        """Batch of the last step."""
        self.task_losses: torch.Tensor | None = None
        """(K,), of the last step."""
        self._loss: torch.Tensor | None = None
        self._known: bool | None = None
        self._before: tuple[torch.Tensor | None, list[torch.Tensor | None]] = (None, [])
        self._steps_of_update, self._updated = 0, True

    def begin(self) -> None:
        """Copies the statistics and accumulated gradients that a refused step must restore."""
        if self._updated:
            self._steps_of_update, self._updated = 0, False
        gradients = [None if p.grad is None else p.grad.clone() for p in self.parameters] if self.accumulates else []
        self._before = (None if self._statistics is None else self._statistics.clone(), gradients)
        self.refused = self._loss = self._known = None

    def through(
        self, bags: KeyedTensor | None, weighted: KeyedTensor | None, events: Events | None
    ) -> tuple[KeyedTensor | None, KeyedTensor | None, Events | None]:
        """Passes looked-up embeddings through the identity; give its outputs to the head."""
        looked_up = [b.values() for b in (bags, weighted) if b is not None] + [e.values() for e in (events or {}).values()]
        if not any(x.requires_grad for x in looked_up):
            return bags, weighted, events
        passed = iter(_Identity.apply(self, *looked_up))
        bags, weighted = (
            None if b is None else KeyedTensor(b.keys(), b.length_per_key(), next(passed)) for b in (bags, weighted)
        )
        if events is not None:
            events = {
                key: JaggedTensor(next(passed), e.weights_or_none(), e.lengths_or_none(), e.offsets_or_none())
                for key, e in events.items()
            }
        return bags, weighted, events

    def heard(self, loss: torch.Tensor, task_losses: torch.Tensor, batch: Any) -> None:
        """Takes the results of the forward. loss: (); task_losses: (K,)."""
        self._loss, self.task_losses, self.batch = loss.detach(), task_losses, batch

    @torch.no_grad()
    def decide(self, of_lookups: Sequence[torch.Tensor]) -> None:
        """Sets `refused`, after the backward of the head. Collective. of_lookups: gradients of looked-up embeddings."""
        if self._loss is None:
            return
        finite = torch.isfinite(self._loss)
        if self._statistics is not None:
            # A value may be so large that its variance is infinite, although everything computed from it is finite.
            finite = finite & torch.isfinite(self._statistics).all()
        of_all, of_some = (
            [p.grad for p in self.parameters if p.grad is not None and (p in self._apart) == apart] for apart in (False, True)
        )
        # Those of parameters that not all ranks hold are not exchanged with the others.
        for gradients, limit in ((of_all, self.dense_limit), (of_some, LARGEST), (of_lookups, self.lookup_limit)):
            filled = [g for g in gradients if g.numel()]
            if filled:
                # The 2-norm is three times as fast as the largest element. The comparison is False for NaN.
                sizes = torch._foreach_norm(filled) if limit >= LARGEST else torch._foreach_max(torch._foreach_abs(filled))
                finite = finite & (torch.stack(sizes).max() <= limit)
        self.refused = (~finite).float()
        if several_ranks():
            dist.all_reduce(self.refused)
            self.refused = self.refused.clamp(max=1)
        self._known = None if self.late else bool(self.refused)

    def kept(self, gradient: torch.Tensor) -> torch.Tensor:
        """A gradient of looked-up embeddings, zeroed if the step is refused."""
        if self.refused is not None and self._known is None:
            return torch.where(self.refused > 0, torch.zeros_like(gradient), gradient)
        return torch.zeros_like(gradient) if self._known else gradient

    @torch.no_grad()
    def after_backward(self, updates: bool) -> None:
        """Call it before the optimizers. updates: whether they step, with dense gradients already reduced over ranks."""
        if self.refused is None:
            self.decide(())  # no sharded table was looked up
        self._updated = updates
        statistics, gradients = self._before
        if self.refused is not None and self._known is None and statistics is not None and self._statistics is not None:
            self._statistics.copy_(torch.where(self.refused > 0, statistics, self._statistics))
        if not self._known:
            self._steps_of_update += 1
            return
        if statistics is not None and self._statistics is not None:
            self._statistics.copy_(statistics)
        if self.accumulates:
            self._give_back(gradients, updates)

    def _give_back(self, gradients: list[torch.Tensor | None], updates: bool) -> None:
        """Restores the gradients accumulated by the update's other steps. updates: also averages them over ranks, because the
        average already made contains the refused step."""
        for parameter, before in zip(self.parameters, gradients, strict=True):
            if parameter.grad is None:
                continue
            if before is None:
                parameter.grad.zero_()
                continue
            parameter.grad.copy_(before)
            if updates and several_ranks() and parameter not in self._apart:
                parameter.grad.div_(dist.get_world_size())
                dist.all_reduce(parameter.grad)

    @property
    def refuses_update(self) -> bool | torch.Tensor:
        """Whether to skip the update, because all its steps were refused. A tensor () float32 if the host does not know yet."""
        if self.refused is not None and self._known is None:
            return self.refused
        return bool(self._known) and not self._steps_of_update


class _Identity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, check: StepCheck, *looked_up: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.check = check
        ctx.set_materialize_grads(False)
        return tuple(x.view_as(x) for x in looked_up)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        ctx.check.decide([g for g in gradients if g is not None])
        return (None, *(None if g is None else ctx.check.kept(g) for g in gradients))


def _as_one(norms: Sequence[GlobalBatchNorm]) -> torch.Tensor | None:
    """Makes all running statistics views of one tensor, so that one copy saves or restores them all."""
    names = ("running_mean", "running_var")
    parts = [getattr(norm, name) for norm in norms for name in names]
    if not parts:
        return None
    whole = torch.cat([part.flatten() for part in parts])
    views = iter(whole.split([part.numel() for part in parts]))
    for norm in norms:
        for name in names:
            setattr(norm, name, next(views).view_as(getattr(norm, name)))
    return whole
