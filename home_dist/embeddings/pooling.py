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


class MeansOfSums:
    """Divides sums (B, width) of the keys in `means` by each sample's number of ids; samples without ids keep zero."""

    def __init__(self, means: frozenset[str]):
        self.means = means
        self._columns: tuple[object, torch.Tensor, torch.Tensor] | None = None

    def __call__(self, bags: KeyedTensor, ids: KeyedJaggedTensor) -> KeyedTensor:
        keys, counts = bags.keys(), ids.lengths().view(len(ids.keys()), -1)
        row, divided = self._of_columns(keys, bags.length_per_key(), ids.keys(), counts.device)
        scale = torch.where(divided, (1 / counts.clamp(min=1)).t().index_select(1, row), 1.0)
        return KeyedTensor(keys, bags.length_per_key(), bags.values() * scale)

    def _of_columns(
        self, keys: list[str], widths: list[int], rows: list[str], device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(width,) each: the row of `ids` of a column of the bags, and whether it is divided. The same in every step: sent to a
        GPU once, because it waits for what is sent from unpinned memory."""
        layout = tuple(keys), tuple(widths), tuple(rows), device
        if self._columns is None or self._columns[0] != layout:
            number = {key: n for n, key in enumerate(rows)}
            by_column = [key for key, width in zip(keys, widths, strict=True) for _ in range(width)]
            row = torch.tensor([number[key] for key in by_column], device=device)
            divided = torch.tensor([key in self.means for key in by_column], device=device)
            if torch.compiler.is_compiling():  # tensors of a trace must not outlive it
                return row, divided
            self._columns = layout, row, divided
        return self._columns[1:]


def pooled(ids: JaggedTensor, item: IdInput, weights: JaggedTensor | None = None) -> torch.Tensor:
    """Sum or mean per sample: values (N, dim), N jagged -> (B, dim); zero for samples without values. weights: (N,)."""
    values, lengths = ids.values(), ids.lengths()
    if weights is not None:
        values = values * weights.values().unsqueeze(1)
    sample = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths, output_size=len(values))
    total = values.new_zeros(len(lengths), values.shape[1]).index_add_(0, sample, values)
    return total / lengths.clamp(min=1).unsqueeze(1) if item.pooling == "mean" else total
