"""Which scores of masked gates and self gates are computed at all: those of experts that a gate may see."""

from typing import NamedTuple

import torch


class Places(NamedTuple):
    """The scores of K gates, S each: `main` of the masked gate, then those of the self gate, each filled up to the longest."""

    rows: torch.Tensor
    """(K S), of the two stacked weights (K E, F), to be multiplied with; any row for what fills up."""
    experts_of: torch.Tensor
    """(K, S), the expert that a score is of; -1 for what fills up."""
    main: int
    alone: torch.Tensor
    """(K,), 1 where the self gate sees one expert and is a sigmoid."""
    experts: int

    @staticmethod
    def of(masked: torch.Tensor, own: torch.Tensor | None) -> "Places":
        """masked, own: (K, E), what masked gates and self gates may see."""
        masks = [masked] if own is None else [masked, own]
        seen = torch.cat([_listed(mask) for mask in masks], 1)
        gates, experts = masked.shape
        starts = torch.arange(gates * len(masks)).view(len(masks), gates).t() * experts  # of each gate's rows, by mask
        widths = torch.tensor([int(mask.sum(1).max()) for mask in masks])
        rows = (starts.repeat_interleave(widths, 1) + seen.clamp(min=0)).flatten()
        alone = torch.zeros(gates, dtype=torch.int64) if own is None else (own.sum(1) == 1).long()
        return Places(rows, seen, int(widths[0]), alone, experts)


def _listed(mask: torch.Tensor) -> torch.Tensor:
    """(K, E) -> (K, most): the positions that are set, ascending, then -1."""
    listed = [row.nonzero().flatten() for row in mask]
    return torch.nn.utils.rnn.pad_sequence(listed, batch_first=True, padding_value=-1).contiguous()
