"""Batches of a feature cache, gathered at once out of its mapped parts: no Python runs for each sample or vector."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emo_lightning.data.batches import FeatureBatch
from emo_lightning.data.buffers import Buffers
from emo_lightning.data.features import FeatureCache
from emo_lightning.data.loader import SlotDataset
from emo_lightning.data.sampler import Slot, places

_LONG = 16
"""Vectors of a sample from which on it is copied by itself; shorter ones are gathered part by part."""
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
        bits = _bits(hidden)
        if longest * spec.num_layers < _LONG:
            self._gather_vectors(rows, lengths, bits)
        else:
            self._copy_samples(rows, lengths, bits)
        chosen = torch.from_numpy(rows)
        return {
            "hidden_states": hidden,
            "mask": torch.from_numpy(np.arange(longest) < lengths[:, None]),
            "target": columns.target[chosen],
            "emotion": columns.emotion[chosen],
            "intensity": columns.intensity[chosen],
            "filler": torch.from_numpy(fillers),
            "key": list(map(self.cache.keys.__getitem__, rows.tolist())),
        }

    def _copy_samples(self, rows: NDArray[np.int64], lengths: NDArray[np.int64], out: NDArray[np.integer]) -> None:
        """Fill `out` (L, B, T, H), sample by sample."""
        columns = self.cache.columns
        places = zip(columns.parts[rows].tolist(), columns.starts[rows].tolist(), lengths.tolist(), strict=True)
        for place, (part, start, tokens) in enumerate(places):
            out[:, place, :tokens] = _bits(self.cache.part(part))[start : start + tokens].swapaxes(0, 1)
            out[:, place, tokens:] = 0

    def _gather_vectors(self, rows: NDArray[np.int64], lengths: NDArray[np.int64], out: NDArray[np.integer]) -> None:
        """Fill `out` (L, B, T, H): all vectors of one part after another, then in their places."""
        columns = self.cache.columns
        # All places are inside: `mode="clip"` spares numpy a copy.
        layers, _, longest, width = out.shape
        tokens = np.minimum(np.arange(longest), lengths[:, None] - 1)
        # (L, B, T): which vector of its part each is.
        vectors = ((columns.starts[rows][:, None] + tokens) * layers + np.arange(layers)[:, None, None]).reshape(-1)
        parts = np.broadcast_to(columns.parts[rows][:, None], (layers, len(rows), longest)).reshape(-1)
        used, flat = np.flatnonzero(np.bincount(columns.parts[rows])).tolist(), out.reshape(-1, width)
        if len(used) == 1:
            np.take(self._vectors(used[0]), vectors, axis=0, out=flat, mode="clip")
        else:
            order = np.argsort(parts, kind="stable")
            vectors, ends = vectors[order], np.cumsum(np.bincount(parts)[used]).tolist()
            between = _bits(self._buffers.tensor(flat.shape, self.cache.dtype))
            for part, start, end in zip(used, [0, *ends], ends, strict=False):
                np.take(self._vectors(part), vectors[start:end], axis=0, out=between[start:end], mode="clip")
            back = np.empty_like(order)
            back[order] = np.arange(len(order))
            np.take(between, back, axis=0, out=flat, mode="clip")
        if (padding := np.arange(longest) >= lengths[:, None]).any():
            out[:, padding] = 0

    def _vectors(self, part: int) -> NDArray[np.integer]:
        """(vectors, H) of a part, one after another."""
        return _bits(self.cache.part(part)).reshape(-1, self.cache.spec.hidden_size)


def _bits(values: Tensor) -> NDArray[np.integer]:
    """The same memory as whole numbers: numpy has no bfloat16."""
    return values.view(_WHOLE[values.itemsize]).numpy()
