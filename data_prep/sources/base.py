"""What a source of images yields, whatever its layout on disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from emo_lightning.core.errors import InputError
from emo_lightning.core.records import GroundedObject


@dataclass(frozen=True)
class SourceItem:
    """One image of a source, as it will be stored."""

    key: str
    """Unique within the source, the same on every read (e.g. the relative path)."""
    image: bytes
    """Encoded image, upright (EXIF orientation already applied)."""
    extension: str
    """jpg, png or webp, by the content."""
    width: int
    height: int
    source: str
    """Name of the source."""
    split: str | None = None
    """The source's own split, if it has one."""
    group: str | None = None
    """Images of one group stay in one split."""
    labels: dict[str, Any] = field(default_factory=dict)
    """What the source itself says (keys: `labels.SourceLabels`); kept in provenance, never shown to an annotator."""
    regions: tuple[GroundedObject, ...] = ()
    """Regions that the source ships."""
    licence: str | None = None
    origin: str | None = None
    """Where the image is from, e.g. a path or an address."""


@dataclass(frozen=True)
class Refusal:
    """One thing in a source that cannot be used, and why."""

    file: str
    line: int | None
    """Line of an index file, or None where the file itself is refused."""
    reason: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        # A file's name may hold anything: it must break neither the line nor the terminal.
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in f"{place}: {self.reason}")


@dataclass(frozen=True)
class Repeat(Refusal):
    """A row that says again what an earlier one said: counted, and nothing is lost by leaving it out."""


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
