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
    """What of a vision tower decides where patches stand."""

    window: int | None
    """Side of a window, pixels; None where every block sees whole pictures."""
    patch: int
    """Side of a patch, pixels."""
    merge: int
    """Side of the square of patches that becomes a token, patches."""
    table: int | None = None
    """Rows, and columns, of a table of learned positions, which is stretched over each picture; None where there is none."""


class Windows(NamedTuple):
    """What a tower with windows needs beside."""

    order: Tensor
    """(P / merge²,) int64: the tokens' order by windows."""
    samples: Samples
    """Patches of each window, in their order."""


class Taps(NamedTuple):
    """Which entries of a table of learned positions make the position of each patch."""

    indices: Tensor
    """(P, 4) int64: the entries around it."""
    weights: Tensor
    """(P, 4) float32: how much each of them counts."""


class PatchPlaces:
    """Where the P patches of several pictures stand.

    No dataclass: Lightning would take it apart to change the type of its tensors.

    Args:
        tower: for which this holds.
        positions: (P, 2) int64: row and column of each patch in its picture.
        pictures: patches of each picture.
        windows: of a tower that has some.
        taps: of a tower with a table of learned positions, where transformers takes them from outside.
    """

    def __init__(
        self, tower: Tower, positions: Tensor, pictures: Samples, windows: Windows | None = None, taps: Taps | None = None
    ) -> None:
        self.tower, self.positions, self.pictures = tower, positions, pictures
        self.windows, self.taps = windows, taps

    @classmethod
    def of(cls, grids: Sequence[tuple[int, int]], tower: Tower) -> PatchPlaces:
        """Of pictures of (rows, columns) patches, on the CPU."""
        cpu = torch.device("cpu")
        positions = torch.cat([_by_token(*grid, tower.merge) for grid in grids])
        pictures = Samples.of([rows * columns for rows, columns in grids], cpu)
        taps = None if tower.table is None else _taps(grids, tower.table, tower.merge)
        if tower.window is None:
            return cls(tower, positions, pictures, taps=taps)
        indices, lengths, begin = [], [], 0
        for grid in grids:
            index, of_windows = _windows(*grid, tower.merge, tower.window // tower.patch // tower.merge)
            indices.append(index + begin)
            lengths += of_windows
            begin += len(index)
        return cls(tower, positions, pictures, Windows(torch.cat(indices), Samples.of(lengths, cpu)), taps)

    def to(self, device: torch.device, non_blocking: bool = True) -> PatchPlaces:
        """On a device; Lightning calls it for every batch."""
        if self.positions.device == torch.device(device):
            return self
        return self._each(lambda part: part.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PatchPlaces:
        """In memory that can be copied while the device computes; PyTorch's loader calls it where it pins batches."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> PatchPlaces:
        def moved(part: Samples) -> Samples:
            return Samples(part.lengths, change(part.bounds))

        windows = self.windows and Windows(change(self.windows.order), moved(self.windows.samples))
        taps = self.taps and Taps(*map(change, self.taps))
        return PatchPlaces(self.tower, change(self.positions), moved(self.pictures), windows, taps)

    def tower_inputs(self) -> dict[str, object]:
        """What transformers' vision tower takes in place of working it out, and what `vision_attention` does."""
        known: dict[str, object] = {"pictures": self.pictures}
        if self.windows is not None:
            known["windows"] = self.windows.samples
        if not _takes_places():
            return known
        known |= {
            "position_ids": self.positions,
            "cu_seqlens": self.pictures.bounds,
            "max_seqlen": self.pictures.longest,
        }
        if self.windows is not None:
            known |= {
                "window_index": self.windows.order,
                "cu_window_seqlens": self.windows.samples.bounds,
                "max_window_seqlen": self.windows.samples.longest,
            }
        if self.taps is not None:
            known |= {"interp_indices": self.taps.indices, "interp_weights": self.taps.weights}
        return known


@lru_cache(maxsize=1024)
def _by_token(rows: int, columns: int, merge: int) -> Tensor:
    """(row, column) of one picture's patches, which stand by tokens: merge × merge of them each."""
    places = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1)
    return places.view(rows // merge, merge, columns // merge, merge, 2).transpose(1, 2).reshape(-1, 2)


@lru_cache(maxsize=1024)
def _windows(rows: int, columns: int, merge: int, side: int) -> tuple[Tensor, list[int]]:
    """Of one picture: its tokens in the order of windows of `side` tokens, and the patches of each window."""
    row, column = torch.arange(rows // merge)[:, None], torch.arange(columns // merge)[None]
    window = (row // side * -(-columns // merge // side) + column // side).flatten()
    return window.argsort(stable=True), (window.bincount() * merge**2).tolist()


def _taps(grids: Sequence[tuple[int, int]], side: int, merge: int) -> Taps | None:
    """As transformers works them out; None where this version's tower does not take them."""
    if not _takes_places():
        return None
    from transformers import vision_utils

    work_out = getattr(vision_utils, "get_vision_interpolation_indices_and_weights", None)
    if work_out is None:
        return None
    sizes = torch.tensor([(1, *grid) for grid in grids])
    return Taps(*work_out(sizes, side, mode="bilinear", align_corners=True, spatial_merge_size=merge))


@cache
def _takes_places() -> bool:
    """Whether this version of transformers takes from outside what its vision towers work out."""
    return find_spec("transformers.vision_utils") is not None
