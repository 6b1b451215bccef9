"""Where the patches of a batch's pictures stand in a vision tower with windows: worked out by the loader's workers.

transformers does it in every forward pass, in Python, from the sizes of the pictures on the device: for each picture and again for
each layer the host waits until the device has told them. Here the tower is handed what it would work out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from emo_lightning.models.families.samples import Samples


class Tower(NamedTuple):
    """What of a vision tower decides where patches stand, in pixels, pixels and patches."""

    window: int
    """Side of a window."""
    patch: int
    """Side of a patch."""
    merge: int
    """Side of the square of patches that becomes a token."""


class Places:
    """Where the P patches of several pictures stand.

    No dataclass: Lightning would take it apart to change the type of its tensors.

    Args:
        tower: for which this holds.
        window_index: (P / merge²,) int64: the tokens' order by windows.
        positions: (P, 2) int64: row and column of each patch in its picture.
        pictures: patches of each picture.
        windows: patches of each window, in their order.
    """

    def __init__(self, tower: Tower, window_index: Tensor, positions: Tensor, pictures: Samples, windows: Samples) -> None:
        self.tower = tower
        self.window_index, self.positions = window_index, positions
        self.pictures, self.windows = pictures, windows

    @classmethod
    def of(cls, grids: Sequence[tuple[int, int]], tower: Tower) -> Places:
        """Of pictures of (rows, columns) patches, on the CPU."""
        indices, positions, lengths, begin = [], [], [], 0
        for grid in grids:
            index, of_patches, of_windows = _places(*grid, tower)
            indices.append(index + begin)
            positions.append(of_patches)
            lengths += of_windows
            begin += len(index)
        cpu = torch.device("cpu")
        pictures = Samples.of([rows * columns for rows, columns in grids], cpu)
        return cls(tower, torch.cat(indices), torch.cat(positions), pictures, Samples.of(lengths, cpu))

    def to(self, device: torch.device, non_blocking: bool = True) -> Places:
        """On a device; Lightning calls it for every batch."""
        if self.window_index.device == torch.device(device):
            return self
        return self._each(lambda part: part.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Places:
        """In memory that can be copied while the device computes; PyTorch's loader calls it where it pins batches."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Places:
        pictures, windows = (Samples(part.lengths, change(part.bounds)) for part in (self.pictures, self.windows))
        return Places(self.tower, change(self.window_index), change(self.positions), pictures, windows)

    def tower_inputs(self) -> dict[str, object]:
        """What transformers' vision tower takes in place of working it out, and what `vision_attention` does."""
        known: dict[str, object] = {"pictures": self.pictures, "windows": self.windows}
        if not _takes_places():
            return known
        return {
            **known,
            "position_ids": self.positions,
            "cu_seqlens": self.pictures.bounds,
            "max_seqlen": self.pictures.longest,
            "window_index": self.window_index,
            "cu_window_seqlens": self.windows.bounds,
            "max_window_seqlen": self.windows.longest,
        }


@lru_cache(maxsize=1024)
def _places(rows: int, columns: int, tower: Tower) -> tuple[Tensor, Tensor, list[int]]:
    """Of one picture: its tokens in the order of windows, (row, column) of its patches, and the patches of each window."""
    merge, side = tower.merge, tower.window // tower.patch // tower.merge
    row, column = torch.arange(rows // merge)[:, None], torch.arange(columns // merge)[None]
    window = (row // side * -(-columns // merge // side) + column // side).flatten()
    # Patches stand by tokens: merge × merge of them each.
    places = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1)
    by_token = places.view(rows // merge, merge, columns // merge, merge, 2).transpose(1, 2).reshape(-1, 2)
    return window.argsort(stable=True), by_token, (window.bincount() * merge**2).tolist()


@cache
def _takes_places() -> bool:
    """Whether this version of transformers takes from outside what its vision towers work out."""
    return find_spec("transformers.vision_utils") is not None
