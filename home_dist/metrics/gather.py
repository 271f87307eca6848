"""Gathers the rows of all ranks on every rank, so that metrics are exact and not a mean of the ranks' metrics."""

import zlib

import torch
import torch.distributed as dist


def gather_rows(*tensors: torch.Tensor, process_group: dist.ProcessGroup | None = None) -> tuple[torch.Tensor, ...]:
    """Each tensor (N of this rank, ...) becomes (N of all ranks, ...) on every rank, bit for bit, in the ranks' order.

    The tensors of one rank have the same number of rows; other ranks may have more, fewer or none. Result i lies on the
    device of tensor i. Collective: all ranks of the group must call it. Without a process group, or with one rank, the
    tensors are returned as they are. Raises ValueError, on all ranks, where dtypes or widths differ between ranks.
    """
    rows = {t.shape[0] if t.ndim else -1 for t in tensors}
    if not tensors or len(rows) > 1 or -1 in rows:
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors) or "nothing"
        raise ValueError(f"gather_rows needs tensors with one common number of rows; given: {shapes}")
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size(process_group) == 1:
        return tensors
    counts = _row_counts(tensors, process_group)
    return tuple(_gather(t, counts, process_group) for t in tensors)


def _row_counts(tensors: tuple[torch.Tensor, ...], group: dist.ProcessGroup | None) -> list[int]:
    """Rows per rank. Raises ValueError where ranks would exchange bytes of different meaning, or hang."""
    kinds = ", ".join(f"{str(t.dtype).removeprefix('torch.')} {tuple(t.shape[1:])}" for t in tensors)
    own_counts = torch.tensor([tensors[0].shape[0], zlib.crc32(kinds.encode())], device=_wire(tensors[0], group))
    counts_of_ranks = [torch.empty_like(own_counts) for _ in range(dist.get_world_size(group))]
    dist.all_gather(counts_of_ranks, own_counts, group=group)
    table = torch.stack(counts_of_ranks).tolist()
    differing = [rank for rank, (_, kind) in enumerate(table) if kind != table[0][1]]
    if differing:
        raise ValueError(
            f"gather_rows: ranks {differing} pass other dtypes or widths than rank 0; this is rank "
            f"{dist.get_rank(group)}, with {kinds}"
        )
    return [rows for rows, _ in table]


def _gather(tensor: torch.Tensor, counts: list[int], group: dist.ProcessGroup | None) -> torch.Tensor:
    """Sends bytes, which every backend carries for every dtype. Each rank pads its part to the largest one."""
    width = tensor.element_size()
    for size in tensor.shape[1:]:
        width *= size
    if width == 0 or max(counts) == 0:
        return tensor.new_empty((sum(counts), *tensor.shape[1:]))
    wire = _wire(tensor, group)
    sent = torch.zeros(max(counts) * width, dtype=torch.uint8, device=wire)
    own_bytes = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    sent[: own_bytes.numel()] = own_bytes
    received = torch.empty(len(counts), sent.numel(), dtype=torch.uint8, device=wire)
    dist.all_gather(list(received), sent, group=group)
    parts = [part[: count * width] for part, count in zip(received, counts, strict=True)]
    whole = torch.cat(parts).view(tensor.dtype).reshape(sum(counts), *tensor.shape[1:])
    return whole.to(tensor.device)


def _wire(tensor: torch.Tensor, group: dist.ProcessGroup | None) -> torch.device:
    """Device on which a tensor must lie to be sent: a process group with nccl alone carries no CPU tensors."""
    if tensor.device.type == "cpu" and "cpu:" not in dist.get_backend_config(group):
        return torch.device("cuda", torch.cuda.current_device())
    return tensor.device
