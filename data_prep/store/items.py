"""What a store takes: the images of a source, and what of a source cannot be taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from emo_lightning.core.text import printable

if TYPE_CHECKING:
    from emo_lightning.core.records import GroundedObject


@dataclass(frozen=True)
class SourceItem:
    """One image of a source, before it is stored; `rows.Item.of` is what it becomes."""

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
    labels: dict[str, object] = field(default_factory=dict)
    """What the source itself says (keys: `sources.labels.SourceLabels`); kept in provenance, never shown to an annotator."""
    regions: tuple[GroundedObject, ...] = ()
    """Regions that the source ships."""
    licence: str | None = None
    origin: str | None = None
    """Where the image is from, e.g. a path or an address."""


@dataclass(frozen=True)
class SourceRefusal:
    """One thing in a source that cannot be used, and why."""

    file: str
    line: int | None
    """Line of an index file, or None where the file itself is refused."""
    reason: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        # A file's name may hold anything: it must break neither the line nor the terminal.
        return one_line(f"{place}: {self.reason}")


@dataclass(frozen=True)
class Repeat(SourceRefusal):
    """A row that says again what an earlier one said: counted, and nothing is lost by leaving it out."""


@dataclass(frozen=True)
class PassedOver(SourceRefusal):
    """What lies there and is none of the source's images, by its name or its content: counted by name, and no error."""

    count: int = 1
    """Files; of a hidden folder those in it."""


def one_line(text: str) -> str:
    """The text as a terminal may show it, its ends of lines and tabs escaped as well: a name of a file may hold any."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def is_labelled(labels: Mapping[str, object]) -> bool:
    """Whether the source names an emotion of the eight, as a category or as a distribution."""
    return bool(labels.get("emotion") or labels.get("emotion_scores"))
