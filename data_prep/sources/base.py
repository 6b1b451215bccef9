"""What a source of images yields, whatever its layout on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from data_prep.store.items import Refusal, Repeat, SourceItem
from emo_lightning.core.errors import UserError

__all__ = ["Refusal", "Refused", "Repeat", "Source", "SourceError", "SourceItem"]


class Refused(ValueError):
    """One row or file of a source cannot be used; the message is the reason of a `Refusal`, its kind before the first colon."""


class SourceError(UserError, ValueError):
    """The source as a whole cannot be read."""


class Source(Protocol):
    """A reader of one layout."""

    def read(self, path: Path) -> Iterator[SourceItem | Refusal]:
        """Stream the items below `path`, in the same order every time.

        Raises:
            SourceError: there is no such source at `path`.
        """
        ...
