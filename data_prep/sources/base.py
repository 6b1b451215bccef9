"""What a source of images yields, whatever its layout on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from data_prep.store.items import PassedOver, Repeat, SourceItem, SourceRefusal
from emo_lightning.core.errors import InputError
from emo_lightning.core.web.addresses import RefusedError

__all__ = ["PassedOver", "RefusedError", "Repeat", "Source", "SourceError", "SourceItem", "SourceRefusal"]


class SourceError(InputError):
    """The source as a whole cannot be read."""


class Source(Protocol):
    """A reader of one layout."""

    def read(self, path: Path) -> Iterator[SourceItem | SourceRefusal]:
        """Stream the items below `path`, in the same order every time.

        Raises:
            SourceError: there is no such source at `path`.
        """
        ...
