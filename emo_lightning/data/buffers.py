"""Memory for large batches, used again as soon as nobody holds the batch that lay in it."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ALIGNED = 64
"""Bytes, as torch's own allocator aligns: some matrix products give other last bits elsewhere."""
_FREE = 2
"""References to the bytes of a buffer that nobody uses: the buffer's own, and that of the question."""


class _Buffer(NamedTuple):
    bytes: NDArray[np.uint8]
    start: int
    """The first that is aligned."""

    @classmethod
    def fresh(cls, size: int) -> _Buffer:
        whole = np.empty(size + _ALIGNED, dtype=np.uint8)
        return cls(whole, -whole.ctypes.data % _ALIGNED)


class Buffers:
    """Gives tensors of any contents. A fresh one costs a page fault for each 4 KiB, which takes longer than to copy them.

    Args:
        most: buffers that are kept; with more batches in use at once, each further one gets memory of its own.
    """

    def __init__(self, most: int = 4) -> None:
        self.most = most
        self._kept: list[_Buffer] = []

    def tensor(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor on the CPU; as long as it, or anything that shares its memory, is there, nobody else is given that memory."""
        size = math.prod(shape) * dtype.itemsize
        buffer = self._free(size)
        # The tensor holds the array that it is a view of.
        return torch.from_numpy(buffer.bytes[buffer.start : buffer.start + size]).view(dtype).view(*shape)

    def _free(self, size: int) -> _Buffer:
        for place, kept in enumerate(self._kept):
            if sys.getrefcount(kept.bytes) == _FREE:
                if len(kept.bytes) < size + _ALIGNED:
                    # Batches differ a little in size.
                    self._kept[place] = _Buffer.fresh(size + size // 8)
                return self._kept[place]
        buffer = _Buffer.fresh(size)
        if len(self._kept) < self.most:
            self._kept.append(buffer)
        return buffer

    def __getstate__(self) -> dict[str, object]:
        # Another process has batches of its own.
        return self.__dict__ | {"_kept": []}
