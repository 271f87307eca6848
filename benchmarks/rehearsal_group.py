"""A process group whose other ranks are made up: they send what this rank would send to itself.

Each rank's batch is a batch like this rank's, so that what the others send has the sizes that they would send: their part of
an all-to-all is this rank's own part of it, and a gather's are this rank's. Ids are moved by some rows, so that ranks do not
look up the same ones. Sums over ranks are this rank's alone.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import _create_work_from_future
from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed._shard.sharded_tensor import Shard, ShardedTensor, ShardedTensorMetadata
from torch.distributed._shard.sharded_tensor.metadata import TensorProperties
from torch.futures import Future

NAME = "rehearsal"


def _done(result: Any) -> Any:
    future: Future[Any] = Future()
    future.set_result(result)
    return _create_work_from_future(future)


class Rehearsal(dist.ProcessGroup):
    """All collectives that TorchRec 1.8, DDP and the library use in a step, a start and a checkpoint."""

    def __init__(self, rank: int, size: int):
        super().__init__(rank, size)
        self.own, self.ranks = rank, size
        self.handed = 0
        """Bytes that this rank has handed to collectives, without sums of dense gradients; as `home-dist plan` counts them."""

    def alltoall_base(self, out: torch.Tensor, given: torch.Tensor, out_sizes: Any, sizes: Any, options: Any = None) -> Any:
        sizes = list(sizes) or [given.shape[0] // self.ranks] * self.ranks
        out_sizes = list(out_sizes) or [out.shape[0] // self.ranks] * self.ranks
        first = sum(sizes[: self.own])
        mine = given[first : first + sizes[self.own]]
        at = 0
        for rank, size in enumerate(out_sizes):
            part = out[at : at + size]
            if len(mine) == size:
                part.copy_(mine)
                if mine.dtype == torch.int64 and size > self.ranks:  # ids of a batch, not sizes
                    part.copy_((mine - 31 * (rank - self.own)).clamp(min=0))
            elif size:  # rows of other sizes, as of histories: their values do not matter
                part.copy_(given.flatten()[:1].expand_as(part))
            at += size
        self.handed += given.numel() * given.element_size()
        return _done([out])

    def _reduce_scatter_base(self, out: torch.Tensor, given: torch.Tensor, options: Any = None) -> Any:
        out.copy_(given.view(self.ranks, -1)[self.own].view_as(out))
        self.handed += given.numel() * given.element_size()
        return _done(out)

    def reduce_scatter(self, outs: list[torch.Tensor], given: list[list[torch.Tensor]], options: Any = None) -> Any:
        for out, parts in zip(outs, given, strict=True):
            out.copy_(parts[self.own])
        return _done(outs)

    def _allgather_base(self, out: torch.Tensor, given: torch.Tensor, options: Any = None) -> Any:
        out.view(self.ranks, -1).copy_(given.reshape(1, -1).expand(self.ranks, -1))
        self.handed += given.numel() * given.element_size()
        return _done(out)

    def allgather(self, outs: list[list[torch.Tensor]], given: list[torch.Tensor], options: Any = None) -> Any:
        for parts, own in zip(outs, given, strict=True):
            for part in parts:
                part.copy_(own)
        return _done(outs)

    def allreduce(self, tensors: list[torch.Tensor], options: Any = None) -> Any:
        return _done(tensors)

    def broadcast(self, tensors: list[torch.Tensor], options: Any = None) -> Any:
        return _done(tensors)

    def barrier(self, options: Any = None) -> Any:
        return _done(None)

    # Torch 2.13's other names for the same.
    def reduce_scatter_single(self, out: torch.Tensor, given: torch.Tensor, options: Any = None) -> Any:
        return self._reduce_scatter_base(out, given)

    def all_gather_single(self, out: torch.Tensor, given: torch.Tensor, options: Any = None) -> Any:
        return self._allgather_base(out, given)

    def all_to_all_single(self, out: torch.Tensor, given: torch.Tensor, out_sizes: Any, sizes: Any, options: Any = None) -> Any:
        return self.alltoall_base(out, given, out_sizes, sizes)

    def size(self) -> int:
        return self.ranks

    def getBackendName(self) -> str:  # noqa: N802
        return NAME

    @property
    def group_name(self) -> str:
        return dist.distributed_c10d._world.pg_names.get(self, "0")

    @property
    def group_desc(self) -> str:
        return NAME


def form(ranks: int) -> None:
    """Makes this process the first of `ranks` ranks."""
    dist.Backend.register_backend(NAME, lambda store, rank, size, timeout: Rehearsal(rank, size), devices=["cpu"])
    dist.init_process_group(NAME, rank=0, world_size=ranks, store=dist.HashStore())
    ShardedTensor._init_from_local_shards = classmethod(_sharded)  # type: ignore[method-assign, assignment]


def _sharded(cls: type[ShardedTensor], local: list[Shard], *size: Any, process_group: Any = None, **_: Any) -> ShardedTensor:
    """A sharded tensor whose other shards continue this rank's. Torch would ask the other ranks for them."""
    shape = torch.Size(size[0] if len(size) == 1 else size)
    shards, ranks = [s.metadata for s in local], dist.get_world_size()
    if not shards:  # a table of one other rank
        shards = [ShardMetadata([0] * len(shape), list(shape), f"rank:{ranks - 1}/cpu")]
    elif shards[0].shard_sizes != list(shape):
        first = shards[0]
        axis = 0 if first.shard_sizes[0] != shape[0] else 1
        block = first.shard_sizes[axis]
        for rank in range(1, -(-shape[axis] // block)):
            sizes, offsets = list(first.shard_sizes), list(first.shard_offsets)
            offsets[axis] = rank * block
            sizes[axis] = min(block, shape[axis] - offsets[axis])
            shards.append(ShardMetadata(offsets, sizes, f"rank:{rank}/cpu"))
    kind = TensorProperties(dtype=local[0].tensor.dtype if local else torch.float32)
    return cls._init_from_local_shards_and_global_metadata(
        local, ShardedTensorMetadata(shards, shape, kind), process_group=process_group
    )
