"""Pooling of looked-up vectors, where TorchRec does not pool as the schema asks."""

import torch
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor, KeyedTensor

from home_dist.schema import IdInput


def in_order(bags: KeyedTensor, keys: list[str]) -> torch.Tensor:
    """Bags (B, width) in the order of `keys`. TorchRec's order follows the sharding plan, which changes with the ranks."""
    if bags.keys() == keys:
        return bags.values()
    by_key = bags.to_dict()
    return torch.cat([by_key[key] for key in keys], 1)


def means_of_sums(bags: KeyedTensor, ids: KeyedJaggedTensor, means: frozenset[str]) -> KeyedTensor:
    """Divides sums (B, width) of the keys in `means` by each sample's number of ids; samples without ids keep zero."""
    keys, row = bags.keys(), {key: n for n, key in enumerate(ids.keys())}
    order = torch.tensor([row[key] for key in keys], device=ids.lengths().device)
    counts = ids.lengths().view(len(row), -1).index_select(0, order)
    divided = torch.tensor([key in means for key in keys], device=counts.device).unsqueeze(1)
    scale = torch.where(divided, 1 / counts.clamp(min=1), 1.0)
    widths = torch.tensor(bags.length_per_key(), device=counts.device)
    values = bags.values() * scale.t().repeat_interleave(widths, 1, output_size=bags.values().shape[1])
    return KeyedTensor(keys, bags.length_per_key(), values)


def pooled(ids: JaggedTensor, item: IdInput, weights: JaggedTensor | None = None) -> torch.Tensor:
    """Sum or mean per sample: values (N, dim), N jagged -> (B, dim); zero for samples without values. weights: (N,)."""
    values, lengths = ids.values(), ids.lengths()
    if weights is not None:
        values = values * weights.values().unsqueeze(1)
    sample = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths, output_size=len(values))
    total = values.new_zeros(len(lengths), values.shape[1]).index_add_(0, sample, values)
    return total / lengths.clamp(min=1).unsqueeze(1) if item.pooling == "mean" else total
