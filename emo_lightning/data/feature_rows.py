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
from emo_lightning.data.features import FeatureCache
from emo_lightning.data.loader import SlotDataset
from emo_lightning.data.sampler import Slot, places

_LONG = 16
"""Vectors of a sample from which on it is copied by itself; shorter ones are gathered at once."""
_WHOLE = {2: torch.int16, 4: torch.int32}


class FeatureRows(SlotDataset[Slot]):
    """A feature cache. A sample is its place alone, as in `EmbeddingDataset`; `collate` makes the batch of the places."""

    def __init__(self, cache: FeatureCache) -> None:
        self.cache = cache
        self._buffers = Buffers()

    def __len__(self) -> int:
        return len(self.cache)

    def __getitem__(self, slot: Slot) -> Slot:
        return slot

    def __getitems__(self, slots: Sequence[Slot]) -> Sequence[Slot]:
        """All places of a batch: PyTorch asks for them at once."""
        return slots

    def collate(self, slots: Sequence[Slot]) -> FeatureBatch:
        """The batch of B places, padded on the right, as `collate_features` gives it of the samples."""
        columns, spec = self.cache.columns, self.cache.spec
        rows, fillers = places(slots)
        lengths = columns.lengths[rows]
        longest = int(lengths.max())
        hidden = self._buffers.tensor((spec.num_layers, len(rows), longest, spec.hidden_size), self.cache.dtype)
        if longest * spec.num_layers < _LONG:
            self._gather_vectors(rows, lengths, hidden)
        else:
            self._copy_samples(rows, lengths, _bits(hidden))
        return {
            "hidden_states": hidden,
            "mask": torch.from_numpy(np.arange(longest) < lengths[:, None]),
            "target": taken(columns.target, rows),
            "emotion": taken(columns.emotion, rows),
            "intensity": taken(columns.intensity, rows),
            "affect": taken(columns.affect, rows),
            "filler": torch.from_numpy(fillers),
            "key": Keys(self.cache.keys, rows),
        }

    def _copy_samples(self, rows: NDArray[np.int64], lengths: NDArray[np.int64], out: NDArray[np.integer]) -> None:
        """Fill `out` (L, B, T, H), sample by sample."""
        columns = self.cache.columns
        places = zip(columns.parts[rows].tolist(), columns.starts[rows].tolist(), lengths.tolist(), strict=True)
        for place, (part, start, tokens) in enumerate(places):
            out[:, place, :tokens] = _bits(self.cache.part(part))[start : start + tokens].swapaxes(0, 1)
            out[:, place, tokens:] = 0

    def _gather_vectors(self, rows: NDArray[np.int64], lengths: NDArray[np.int64], out: Tensor) -> None:
        """Fill `out` (L, B, T, H): all vectors at once, out of all parts that hold one."""
        columns = self.cache.columns
        layers, _, longest, width = out.shape
        tokens = np.minimum(np.arange(longest), lengths[:, None] - 1)
        numbers = columns.parts[rows]
        used = {number: self.cache.part(number) for number in np.flatnonzero(np.bincount(numbers)).tolist()}
        memory = Span.of(list(used.values()))
        firsts = np.zeros(int(numbers.max()) + 1, dtype=np.int64)
        firsts[list(used)] = memory.firsts
        # (L, B, T): which value of the memory each vector begins with.
        vectors = (columns.starts[rows][:, None] + tokens) * layers + np.arange(layers)[:, None, None]
        begins = firsts[numbers][:, None] + vectors * width
        torch.index_select(memory.windows(width), 0, torch.from_numpy(begins.reshape(-1)), out=out.view(-1, width))
        if (padding := np.arange(longest) >= lengths[:, None]).any():
            out[:, torch.from_numpy(padding)] = 0


def taken(column: Tensor, rows: NDArray[np.int64]) -> Tensor:
    """Rows of a column; numpy copies short ones faster than torch."""
    return torch.from_numpy(column.numpy().take(rows, axis=0))


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


def _bits(values: Tensor) -> NDArray[np.integer]:
    """The same memory as whole numbers: numpy has no bfloat16."""
    return values.view(_WHOLE[values.itemsize]).numpy()
