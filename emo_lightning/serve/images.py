"""What this room asks of an index of images; `search.SearchIndex` gives it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class IndexedImage(Protocol):
    """An image of an index; see `search.Hit`."""

    def as_json(self) -> dict[str, object]:
        """What is known of it."""
        ...


class ImageIndex(Protocol):
    """What is asked of an index; see `search.SearchIndex`."""

    def __len__(self) -> int: ...

    def find(
        self,
        vector: NDArray[np.float32],
        k: int,
        emotion: str | Sequence[str] | None,
        intensity: str | float | None,
        where: Sequence[str],
    ) -> Sequence[IndexedImage]:
        """The nearest that fulfil conditions; see `search.Filters`."""
        ...

    def walk(
        self,
        start: str | NDArray[np.float32],
        end: str | NDArray[np.float32],
        steps: int,
        emotion: str | Sequence[str] | None,
        intensity: str | float | None,
        where: Sequence[str],
    ) -> Sequence[IndexedImage]:
        """Along the way, those between its ends such that fulfil conditions."""
        ...

    def thumbnail(self, name: str) -> bytes:
        """The small picture of one."""
        ...
