"""The passes in native/, compiled for this processor when they are first needed."""

import ctypes
from pathlib import Path
from typing import Any

import torch

from home_dist.experts.kernels.activation import Activation
from home_dist.experts.kernels.dropout import Dropout
from home_dist.experts.kernels.places import Places
from home_dist.native_library import native_library

_SOURCE = Path(__file__).parent / "native" / "passes.cpp"
_FLAGS = ("-O3", "-std=c++20", "-fopenmp", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
_NOTHING = Dropout(0, 0, 0, 1.0)
_NAMES = {torch.float32: "fp32", torch.float64: "fp64", torch.bfloat16: "bf16"}


class NativePasses:
    """The same methods as TorchPasses, each one call of the library."""

    about = "passes compiled for this processor"

    def __init__(self) -> None:
        """Raises CannotBuild."""
        self._library = native_library(_SOURCE, _FLAGS)

    def bias_relu_(self, x: torch.Tensor, bias: torch.Tensor) -> None:
        self.call("bias_relu", x, x, bias, *x.shape)

    def relu_backward_(self, x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
        sums = _like(x, x.shape[0], x.shape[2])
        self.call("relu_backward", x, x, grad, sums, *x.shape)
        return sums

    def moments(self, y: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        experts, _, width = y.shape
        mean, squares = _like(y, experts, width), _like(y, experts, width)
        self.call("moments", y, y, mask, mean, squares, *y.shape)
        return mean, squares

    def mix(self, y: torch.Tensor, activation: Activation, gates: torch.Tensor, dropout: Dropout | None) -> torch.Tensor:
        experts, rows, width = y.shape
        out = _like(y, len(gates), rows, width)
        sizes = (len(gates), experts, rows, width)
        self.call("mix", y, y, activation.scale, activation.shift, *_strided(gates), out, *(dropout or _NOTHING), *sizes)
        return out

    def mix_sums(
        self, grad: torch.Tensor, y: torch.Tensor, activation: Activation, gates: torch.Tensor, dropout: Dropout | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        experts, rows, width = y.shape
        gate_grad, shift_grad = _like(y, *gates.shape), _like(y, experts, width)
        scale_grad = None if activation.scale is None else _like(y, experts, width)
        results, sizes = (gate_grad, shift_grad, scale_grad), (len(gates), experts, rows, width)
        self.call("mix_sums", y, grad, y, *activation, *_strided(gates), *results, *(dropout or _NOTHING), *sizes)
        return results

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
        statistics, sizes = (away, along, mask), (len(gates), *y.shape)
        self.call("mix_inner", y, grad, y, *activation, *statistics, *_strided(gates), *(dropout or _NOTHING), *sizes)

    def drop(self, x: torch.Tensor, dropout: Dropout) -> torch.Tensor:
        out = torch.empty_like(x)
        self.call("drop", x, x, out, *dropout, *x.shape)
        return out

    def gate(self, wide: torch.Tensor, share: torch.Tensor, x: torch.Tensor, inside: bool, out: torch.Tensor) -> None:
        self.call("gate", wide, wide, share, x, out, int(inside), *wide.shape)

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
        self.call("gate_backward", wide, grad, wide, share, x, share_grad, x_grad, int(add), int(inside), *wide.shape)

    def gate_weights(self, scores: torch.Tensor, places: Places) -> torch.Tensor:
        gates, rows, width = scores.shape
        out = scores.new_empty(gates, rows, places.experts)
        sizes = (places.main, gates, rows, width, places.experts)
        self.call("gate_weights", scores, *_strided(scores), places.experts_of, places.alone, out, *sizes)
        return out

    def gate_weights_backward(self, grad: torch.Tensor, scores: torch.Tensor, places: Places) -> torch.Tensor:
        score_grad = torch.empty_like(scores)
        sizes = (places.main, *scores.shape, places.experts)
        self.call("gate_weights_backward", scores, grad, *_strided(scores), places.experts_of, places.alone, score_grad, *sizes)
        return score_grad

    def call(self, name: str, stored: torch.Tensor, *arguments: Any) -> None:
        """stored: a tensor of the type that activations are stored in. Tensors are passed as pointers; pointers as they are."""
        function = getattr(self._library, f"{name}_{_NAMES[stored.dtype]}")
        function(*(_plain(a) for a in arguments))


def _plain(argument: Any) -> Any:
    if isinstance(argument, int):
        return ctypes.c_int64(argument)
    if isinstance(argument, float):
        return ctypes.c_double(argument)
    return ctypes.c_void_p(argument.data_ptr()) if isinstance(argument, torch.Tensor) else argument


def _like(stored: torch.Tensor, *shape: int) -> torch.Tensor:
    """An empty tensor of the type that passes sum in."""
    return torch.empty(shape, dtype=torch.float32 if stored.dtype == torch.bfloat16 else stored.dtype)


def _strided(gates: torch.Tensor) -> tuple[torch.Tensor, int, int]:
    return gates, gates.stride(0), gates.stride(1)
