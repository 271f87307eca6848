"""Counts the memory that a forward keeps for its backward."""

from collections.abc import Collection

import torch
from torch.autograd.graph import saved_tensors_hooks


class KeptBytes(saved_tensors_hooks):
    """Within it, storages that a forward keeps are counted, each once. without: where the storages begin that are none of its
    activations, such as parameters'."""

    def __init__(self, without: Collection[int]):
        self._kept: dict[int, int] = {}
        self._without = without
        super().__init__(self._keep, lambda tensor: tensor)

    def _keep(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._without:
            self._kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # an output that its own graph holds would keep both, and the network, for ever

    @property
    def total(self) -> int:
        """Bytes so far."""
        return sum(self._kept.values())
