"""The pointwise passes around matrix products, in plain torch: where there is no compiler, and as a second opinion.

Each pass works on a chunk of samples that stays in the cache, with buffers that it uses again.
"""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import nn

from home_dist.experts.kernels.activation import Activation
from home_dist.experts.kernels.dropout import Dropout
from home_dist.experts.kernels.places import Places

_CHUNK_BYTES = 1 << 20
"""Of one tensor within a chunk: a few of them fit a core's second-level cache and its share of the third."""


class Passes(Protocol):
    """y: (E, B, D) before the activation; gates: (K, B, E); grad: (K, B, D); all else as in native/*.hpp.

    Those of the feature gate: wide: (L, B, F) before the sigmoid; share: (B, L); x, grad: (B, F).
    """

    about: str

    def bias_relu_(self, x: torch.Tensor, bias: torch.Tensor) -> None: ...

    def relu_backward_(self, x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor: ...

    def moments(self, y: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]: ...

    def mix(self, y: torch.Tensor, activation: Activation, gates: torch.Tensor, dropout: Dropout | None) -> torch.Tensor: ...

    def mix_sums(
        self, grad: torch.Tensor, y: torch.Tensor, activation: Activation, gates: torch.Tensor, dropout: Dropout | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]: ...

    def mix_inner_(
        self,
        grad: torch.Tensor,
        y: torch.Tensor,
        activation: Activation,
        gates: torch.Tensor,
        away: torch.Tensor | None,
        along: torch.Tensor | None,
        mask: torch.Tensor | None,
        dropout: Dropout | None,
    ) -> None: ...

    def drop(self, x: torch.Tensor, dropout: Dropout) -> torch.Tensor: ...

    def gate(self, wide: torch.Tensor, share: torch.Tensor, x: torch.Tensor, inside: bool, out: torch.Tensor) -> None: ...

    def gate_backward_(
        self,
        grad: torch.Tensor,
        wide: torch.Tensor,
        share: torch.Tensor,
        x: torch.Tensor,
        inside: bool,
        share_grad: torch.Tensor,
        x_grad: torch.Tensor | None,
        add: bool,
    ) -> None: ...

    def gate_weights(self, scores: torch.Tensor, places: Places) -> torch.Tensor: ...

    def gate_weights_backward(self, grad: torch.Tensor, scores: torch.Tensor, places: Places) -> torch.Tensor: ...


class TorchPasses:
    def __init__(self, why: str = "as wanted"):
        self.about = f"passes in plain torch: {why}"

    def bias_relu_(self, x: torch.Tensor, bias: torch.Tensor) -> None:
        for rows in _chunks(x):
            x[:, rows].add_(bias.unsqueeze(1)).relu_()

    def relu_backward_(self, x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
        sums = _zeros(x, x.shape[0], x.shape[2])
        for rows in _chunks(x):
            part = grad[:, rows].masked_fill(x[:, rows] <= 0, 0)
            x[:, rows] = part
            sums += part.sum(1, dtype=sums.dtype)
        return sums

    def moments(self, y: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        mean, squares = (_zeros(y, y.shape[0], y.shape[2]) for _ in range(2))
        total = mean.new_zeros(())
        for rows in _chunks(y):
            part = y[:, rows].to(mean.dtype)
            weight = mean.new_ones(part.shape[1], 1) if mask is None else mask[rows].unsqueeze(1)
            count = weight.sum()
            local = (part * weight).sum(1) / count.clamp(min=1)
            off = (part - local.unsqueeze(1)).mul_(weight).square_().sum(1)
            away = local - mean
            share = count / (total + count).clamp(min=1)
            squares += off + away.square() * (total * share)
            mean += away * share
            total = total + count
        return mean, squares

    def mix(self, y: torch.Tensor, activation: Activation, gates: torch.Tensor, dropout: Dropout | None) -> torch.Tensor:
        out = _zeros(y, y.shape[1], len(gates), y.shape[2])
        for rows in _chunks(y):
            active = _argument(y[:, rows], activation)
            active = active.relu_() if activation.scale is None else active.mul_(torch.sigmoid(active))
            if dropout is not None:
                active.mul_(dropout.factors(y.shape, rows, active))
            torch.bmm(gates[:, rows].transpose(0, 1), active.transpose(0, 1), out=out[rows])
        return out.transpose(0, 1)

    def mix_sums(
        self, grad: torch.Tensor, y: torch.Tensor, activation: Activation, gates: torch.Tensor, dropout: Dropout | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        experts, total, width = y.shape
        gate_grad = _zeros(y, total, len(gates), experts)
        shift_grad = _zeros(y, experts, width)
        scale_grad = None if activation.scale is None else torch.zeros_like(shift_grad)
        for rows in _chunks(y):
            part, active, dv = self._dv(grad, y, activation, gates, dropout, rows)
            torch.bmm(grad[:, rows].transpose(0, 1), active.permute(1, 2, 0), out=gate_grad[rows])
            shift_grad += dv.sum(1)
            if scale_grad is not None:
                scale_grad += dv.mul_(_standard(part, activation)).sum(1)
        return gate_grad.transpose(0, 1), shift_grad, scale_grad

    def mix_inner_(
        self,
        grad: torch.Tensor,
        y: torch.Tensor,
        activation: Activation,
        gates: torch.Tensor,
        away: torch.Tensor | None,
        along: torch.Tensor | None,
        mask: torch.Tensor | None,
        dropout: Dropout | None,
    ) -> None:
        for rows in _chunks(y):
            part, _, dv = self._dv(grad, y, activation, gates, dropout, rows)
            if activation.scale is not None:
                dv.mul_(activation.scale.unsqueeze(1))
            if away is not None and along is not None:
                off = torch.addcmul(away.unsqueeze(1), along.unsqueeze(1), _standard(part, activation))
                dv.sub_(off if mask is None else off.mul_(mask[rows].unsqueeze(1)))
            y[:, rows] = dv

    def drop(self, x: torch.Tensor, dropout: Dropout) -> torch.Tensor:
        return x * dropout.factors(torch.Size((1, *x.shape)), slice(None), x)[0]

    def gate(self, wide: torch.Tensor, share: torch.Tensor, x: torch.Tensor, inside: bool, out: torch.Tensor) -> None:
        torch.mul(x, _gate(wide, share, inside)[1], out=out).mul_(2)

    def gate_backward_(
        self,
        grad: torch.Tensor,
        wide: torch.Tensor,
        share: torch.Tensor,
        x: torch.Tensor,
        inside: bool,
        share_grad: torch.Tensor,
        x_grad: torch.Tensor | None,
        add: bool,
    ) -> None:
        gates, total = _gate(wide, share, inside)
        if x_grad is not None:
            of_x = (grad * total).mul_(2)
            x_grad.copy_(of_x.add_(x_grad) if add else of_x)
        down = grad.mul(x).mul_(2)
        if not inside:
            down.mul_(total).mul_(1 - total)
        torch.sum(gates * down, 2, out=share_grad.t())
        of_wide = share.t().unsqueeze(2) * down
        wide.copy_(of_wide.mul_(gates).mul_(1 - gates) if inside else of_wide)

    def gate_weights(self, scores: torch.Tensor, places: Places) -> torch.Tensor:
        # One column more, for what fills up.
        out = scores.new_zeros(*scores.shape[:2], places.experts + 1)
        out.scatter_add_(2, _columns(scores, places), _weights(scores, places))
        return out[:, :, :-1]

    def gate_weights_backward(self, grad: torch.Tensor, scores: torch.Tensor, places: Places) -> torch.Tensor:
        weights = _weights(scores, places)
        # w g - w sum(w g) is the derivative of a softmax, and of a lone sigmoid.
        score_grad = weights * nn.functional.pad(grad, (0, 1)).gather(2, _columns(scores, places))
        for part in (slice(0, places.main), slice(places.main, None)):
            score_grad[:, :, part] -= weights[:, :, part] * score_grad[:, :, part].sum(2, keepdim=True)
        return score_grad

    def _dv(
        self,
        grad: torch.Tensor,
        y: torch.Tensor,
        activation: Activation,
        gates: torch.Tensor,
        dropout: Dropout | None,
        rows: slice,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of a chunk: y, the activations after dropout, and the gradient of the activations' argument, all (E, b, D)."""
        part = y[:, rows]
        argument = _argument(part, activation)
        dv = torch.bmm(gates[:, rows].permute(1, 2, 0), grad[:, rows].transpose(0, 1)).transpose(0, 1)
        if activation.scale is None:
            active = torch.relu(argument)
            dv.masked_fill_(argument <= 0, 0)
        else:
            gate = torch.sigmoid(argument)
            active = argument * gate
            # s (1 + v (1 - s)) = s + v s (1 - s) = s + a - a s
            dv.mul_(active.addcmul(active, gate, value=-1).add_(gate))
        if dropout is not None:
            kept = dropout.factors(y.shape, rows, active)
            active, dv = active * kept, dv * kept
        return part, active, dv


def _columns(scores: torch.Tensor, places: Places) -> torch.Tensor:
    seen = places.experts_of
    return torch.where(seen < 0, places.experts, seen).unsqueeze(1).expand_as(scores)


def _weights(scores: torch.Tensor, places: Places) -> torch.Tensor:
    """(K, B, S), 0 for what fills up."""
    shut = (places.experts_of < 0).unsqueeze(1)
    main, own = scores.masked_fill(shut, -torch.inf).split([places.main, scores.shape[2] - places.main], 2)
    if not own.shape[2]:
        return main.softmax(2)
    alone = places.alone.bool()[:, None, None]
    return torch.cat([main.softmax(2), torch.where(alone, own.sigmoid(), own.softmax(2))], 2)


def _gate(wide: torch.Tensor, share: torch.Tensor, inside: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """What share is multiplied with, (L, B, F), and the feature gate before the factor 2, (B, F)."""
    gates = wide.to(share.dtype)
    gates = torch.sigmoid(gates) if inside else gates
    total = (share.t().unsqueeze(2) * gates).sum(0)
    return gates, total if inside else total.sigmoid_()


def _argument(part: torch.Tensor, activation: Activation) -> torch.Tensor:
    shift = activation.shift.unsqueeze(1)
    if activation.scale is None:
        return part.to(shift.dtype) + shift
    return torch.addcmul(shift, part.to(shift.dtype), activation.scale.unsqueeze(1))


def _standard(part: torch.Tensor, activation: Activation) -> torch.Tensor:
    if activation.mean is None or activation.rstd is None:
        raise ValueError("an activation without normalisation has no standardised values")
    return (part - activation.mean.unsqueeze(1)).mul_(activation.rstd.unsqueeze(1))


def _chunks(x: torch.Tensor) -> Iterator[slice]:
    """Slices of the samples of x (E, B, D)."""
    row = max(x.shape[0] * x.shape[2] * x.element_size(), 1)
    step = max(_CHUNK_BYTES // row, 16)
    for first in range(0, x.shape[1], step):
        yield slice(first, min(first + step, x.shape[1]))


def _zeros(stored: torch.Tensor, *shape: int) -> torch.Tensor:
    """Of the type that passes sum in."""
    return torch.zeros(shape, dtype=torch.float32 if stored.dtype == torch.bfloat16 else stored.dtype)
