"""Batches of a feature cache, gathered at once out of its mapped parts: no Python runs for each sample or vector."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emo_lightning.data.batches import FeatureBatch, Keys
from emo_lightning.data.buffers import Buffers
from emo_lightning.data.features import MAX_OPEN_FEATURE_PARTS, Columns, FeatureCache
from emo_lightning.data.loader import SlotDataset
from emo_lightning.data.sampler import Slot, places


class FeatureRows(SlotDataset[Slot]):
    """A feature cache. A sample is its place alone, as in `EmbeddingDataset`; `collate` makes the batch of the places."""

    def __init__(self, cache: FeatureCache) -> None:
        self.cache = cache
        self._buffers = Buffers()
        self._parts: dict[int, Tensor] = {}
        self._memory: Span | None = None
        """Of these parts."""
        self._firsts = np.full(int(cache.columns.parts.max()) + 1, -1)
        """Where in the memory each part begins; -1 of one that is not in it."""

    def __len__(self) -> int:
        return len(self.cache)

    def __getitem__(self, slot: Slot) -> Slot:
        return slot

    def __getitems__(self, slots: Sequence[Slot]) -> Sequence[Slot]:
        """All places of a batch: PyTorch asks for them at once."""
        return slots

    def collate(self, slots: Sequence[Slot]) -> FeatureBatch:
        """The batch of B places, padded on the right, as `collate_features` gives it of the samples."""
        spec = self.cache.spec
        rows, fillers = places(slots)
        columns = self.cache.columns.take(rows)
        lengths = columns.lengths
        longest = int(lengths.max())
        tokens = np.arange(longest)
        mask = tokens < lengths[:, None]
        hidden = self._buffers.tensor((spec.num_layers, len(rows), longest, spec.hidden_size), self.cache.dtype)
        self._gather_vectors(columns, np.minimum(tokens, lengths[:, None] - 1), hidden)
        if not mask.all():
            hidden[:, torch.from_numpy(~mask)] = 0
        return {
            "hidden_states": hidden,
            "mask": torch.from_numpy(mask),
            # Views into the table would travel as all of it, and be copied once more on their way to a GPU.
            "target": columns.target.contiguous(),
            "emotion": columns.emotion.contiguous(),
            "intensity": columns.intensity.contiguous(),
            "affect": columns.affect.contiguous(),
            "filler": torch.from_numpy(fillers),
            "key": Keys(self.cache.keys, rows),
        }

    def _gather_vectors(self, columns: Columns, tokens: NDArray[np.int64], out: Tensor) -> None:
        """Fill `out` (L, B, T, H): all vectors at once, out of all parts that hold one.

        Args:
            columns: of the B samples.
            tokens: (B, T), which token of its sample each is.
            out: where they go.
        """
        layers, _, _, width = out.shape
        memory, firsts = self._memory_of(columns.parts)
        # (L, B, T): which value of the memory each vector begins with.
        vectors = (columns.starts[:, None] + tokens) * layers + np.arange(layers)[:, None, None]
        begins = firsts[:, None] + vectors * width
        torch.index_select(memory.windows(width), 0, torch.from_numpy(begins.reshape(-1)), out=out.view(-1, width))

    def _memory_of(self, numbers: NDArray[np.int64]) -> tuple[Span, NDArray[np.int64]]:
        """That of all parts that were used so far, and where each of the given ones begins there, (B,)."""
        if self._memory is not None and (firsts := self._firsts[numbers]).min() >= 0:
            return self._memory, firsts
        needed = set(numbers.tolist())
        if len(needed | self._parts.keys()) > MAX_OPEN_FEATURE_PARTS:
            self._parts = {number: self._parts[number] for number in needed & self._parts.keys()}
        for number in sorted(needed - self._parts.keys()):
            self._parts[number] = self.cache.part(number)
        self._memory = Span.of(list(self._parts.values()))
        self._firsts[:] = -1
        self._firsts[list(self._parts)] = self._memory.firsts
        return self._memory, self._firsts[numbers]

    def __getstate__(self) -> dict[str, object]:
        # As in `FeatureCache`: mapped files do not travel.
        return self.__dict__ | {"_parts": {}, "_memory": None, "_firsts": np.full_like(self._firsts, -1)}


class Span(NamedTuple):
    """The memory from the first to the last of some tensors, which lie anywhere: what is taken of several mapped files is copied once.

    Between them there may be anything, or nothing at all: only places inside of them may be read, and only while they are there.
    """

    values: Tensor
    """One after another."""
    firsts: list[int]
    """Where in `values` each tensor begins."""
    tensors: list[Tensor]
    """Which keep their files mapped."""

    @classmethod
    def of(cls, tensors: list[Tensor]) -> Self:
        """That of contiguous tensors of one dtype on the CPU, each at a multiple of its values' size from the others."""
        begins = [tensor.data_ptr() for tensor in tensors]
        ends = [begin + tensor.nbytes for begin, tensor in zip(begins, tensors, strict=True)]
        lowest = min(begins)
        memory = (ctypes.c_uint8 * (max(ends) - lowest)).from_address(lowest)
        values = torch.from_numpy(np.ctypeslib.as_array(memory)).view(tensors[0].dtype)
        return cls(values, [(begin - lowest) // values.itemsize for begin in begins], tensors)

    def windows(self, width: int) -> Tensor:
        """(N, width): row n holds the values from n on."""
        return self.values.as_strided((len(self.values) - width + 1, width), (1, 1))
