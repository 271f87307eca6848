"""Memory of arrays that is used again once nobody holds them. The C library gives much of it back to the system, above all what
another thread frees, and each new page costs a fault."""

import math
import threading
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SMALL = 1 << 16  # bytes; the C library keeps smaller pieces


class Buffers:
    """Makes the large arrays of a reader's windows and batches. Threads may share it."""

    def __init__(self, kept: int):
        """kept: most bytes of idle memory; beyond them, memory that has been idle longest is freed."""
        self.kept = kept
        self._lock = threading.Lock()
        self._returned = deque[NDArray[np.uint8]]()
        """Memory that came back since the last call. Python may free an array at any time, even where the lock is held."""
        self._idle: list[NDArray[np.uint8]] = []
        """The longest idle first."""

    def empty(self, shape: tuple[int, ...], dtype: Any) -> NDArray:
        """An array with any values. Its memory is used again when the array and all views and tensors of it are gone."""
        kind = np.dtype(dtype)
        size = math.prod(shape) * kind.itemsize
        if size < _SMALL:
            return np.empty(shape, kind)
        memory = self._taken(size)
        if memory is None:
            memory = np.empty(size + size // 8, np.uint8)  # with room for arrays of about this size: lengths of lists vary
        return np.asarray(_Held(memory, self._returned))[:size].view(kind).reshape(shape)

    def idle(self) -> int:
        """Bytes that are in no array now."""
        with self._lock:
            self._collect()
            return sum(len(memory) for memory in self._idle)

    def _taken(self, size: int) -> NDArray[np.uint8] | None:
        """The smallest idle memory of at least `size` bytes, unless half of it would lie bare."""
        with self._lock:
            self._collect()
            fitting = [(len(memory), place) for place, memory in enumerate(self._idle) if size <= len(memory) <= 2 * size]
            return self._idle.pop(min(fitting)[1]) if fitting else None

    def _collect(self) -> None:
        while self._returned:
            self._idle.append(self._returned.popleft())
        total = sum(len(memory) for memory in self._idle)
        while total > self.kept:
            total -= len(self._idle.pop(0))


class _Held:
    """The base of an array and of its views: gives their memory back when the last of them is gone."""

    def __init__(self, memory: NDArray[np.uint8], returned: "deque[NDArray[np.uint8]]"):
        self._memory, self._returned = memory, returned
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        self._returned.append(self._memory)
