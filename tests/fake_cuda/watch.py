"""Sees every operator of a step on fake CUDA tensors: counts them, and refuses those that make the host wait for the device and
those without a deterministic algorithm."""

import traceback
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
_CPU = torch.device("cpu")
_SIZED_BY_DATA = {
    aten.nonzero,
    aten.masked_select,
    aten.bincount,
    aten._unique2,
    aten._unique,
    aten.unique_dim,
    aten.unique_consecutive,
}
_READS = {aten._local_scalar_dense, aten.equal, aten.is_nonzero}
_WITH_MASKS = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
_NOT_DETERMINISTIC = {aten.nll_loss2d_forward, aten.median, aten.histc, aten.put_, aten._embedding_bag}
"""Of those that torch refuses on a GPU where algorithms have to be deterministic, what such a network might use."""
_COPIES = {aten._to_copy, aten.copy_}


class HostSync(Exception):
    """An operator of a step makes the host wait for the device; the message names it and its line."""


class NotDeterministic(Exception):
    """An operator of a step has no deterministic algorithm on a GPU, so that `kernel.deterministic` would end the run."""


class Watch(TorchDispatchMode):
    """`count`: operators so far, without views, which launch nothing. Raises HostSync, NotDeterministic, or
    AssertionError for a tensor that takes part in a step from another device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if operator is torch.ops.prim.device.default:
            return operator(*args, **kwargs)
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        packet = operator.overloadpacket
        if any(map(_on_cuda, tensors)):
            reason = _sync(operator, packet, args, kwargs)
            if reason:
                raise HostSync(f"{packet.__name__} ({reason}) at {place()}")
            floats = packet is aten.cumsum and args[0].is_floating_point()
            if floats or packet in _NOT_DETERMINISTIC or (packet is aten.scatter_reduce and "prod" in args):
                raise NotDeterministic(f"{packet.__name__} at {place()}")
        out = operator(*args, **kwargs)
        if packet in _COPIES:
            source = args[1] if packet is aten.copy_ else args[0]
            if _on_cuda(source) != _on_cuda(out):
                raise HostSync(f"{packet.__name__} (a copy from {source.device.type} to {out.device.type}) at {place()}")
        elif any(map(_on_cuda, tensors)):
            strays = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor) and not _on_cuda(t)]
            assert not strays, f"{packet.__name__} gave a tensor on {strays[0].device} at {place()}"
        self.count += not operator.is_view
        return out


def _on_cuda(tensor: torch.Tensor) -> bool:
    """Without an operator, which `tensor.device` of a fake tensor is."""
    return getattr(tensor, "fake_device", _CPU).type == "cuda"


def _sync(operator: Any, packet: Any, args: Any, kwargs: Any) -> str:
    """Why an operator on CUDA tensors makes the host wait; empty if it does not."""
    if packet in _READS:
        return "the host reads a number"
    if packet in _SIZED_BY_DATA:
        return "the size of its result depends on data"
    if packet is aten.repeat_interleave and kwargs.get("output_size") is None and "Tensor" in operator._overloadname:
        return "without output_size its size depends on data"
    if packet in _WITH_MASKS and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]):
        return "a mask as an index is sized by data"
    return ""


def place() -> str:
    """The innermost line of home_dist that runs; in a backward, the node of autograd."""
    for frame in reversed(traceback.extract_stack()):
        if "/home_dist/" in frame.filename and "/tests/" not in frame.filename:
            return f"home_dist/{frame.filename.rpartition('/home_dist/')[2]}:{frame.lineno}"
    node = torch._C._current_autograd_node()
    if node is not None:
        return f"the backward of {node.name()}"
    for frame in reversed(traceback.extract_stack()):
        if "torchrec" in frame.filename or frame.filename.endswith(("steps.py", "test_steps.py")):
            return f"{frame.filename}:{frame.lineno}"
    return "a line outside of home_dist"
