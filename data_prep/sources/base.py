"""What a source of images yields, whatever its layout on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from data_prep.store.items import PassedOver, Refusal, Repeat, SourceItem
from emo_lightning.core.errors import InputError

__all__ = ["PassedOver", "Refusal", "RefusedError", "Repeat", "Source", "SourceError", "SourceItem"]


class RefusedError(ValueError):
    """A signal inside this package: one row or file of a source cannot be used.

    It never leaves a source: `Place.attempt` turns it into a `Refusal` with the message as its reason, so that the import goes on
    with the next row. The kind of reason stands before the first colon of the message.
    """


class SourceError(InputError):
    """The source as a whole cannot be read."""


class Source(Protocol):
    """A reader of one layout."""

    def read(self, path: Path) -> Iterator[SourceItem | Refusal]:
        """Stream the items below `path`, in the same order every time.

        Raises:
            SourceError: there is no such source at `path`.
        """
        ...
