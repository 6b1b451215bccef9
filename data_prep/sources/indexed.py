"""What every source with an index shares: entries → items, each image read once, repeated rows counted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from data_prep.sources.base import RefusedError, Repeat, SourceItem, SourceRefusal
from data_prep.sources.images import CheckedImage
from data_prep.sources.index_files import Place
from data_prep.sources.labels import SourceLabels
from data_prep.sources.tree import Tree, checked, key_of
from emo_lightning.core.names import composed
from emo_lightning.core.records import BOX_TOLERANCE, Box, GroundedObject, describe

_LONGEST_SPLIT = 50
SPLIT_BY_WORD = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Entry:
    """One row of an index, before its image is read."""

    place: Place
    key: str
    """Unique within the source, the same for every layout that names it."""
    image: str | bytes
    """Name of the file below the root, or the encoded image itself."""
    labels: SourceLabels
    split: str | None = None
    group: str | None = None
    """Within the source; None: the image is on its own."""
    boxes: tuple[Box, ...] = ()
    """Regions of `phrase`, in pixels of the image."""
    phrase: str = ""
    origin: str | None = None
    """Default: the key."""


class IndexedSource(ABC):
    """A published data set whose index files say what its images are.

    Args:
        licence: of all images; the projects do not state one that holds for every image.
    """

    name: str
    """Of the source, in every record."""
    whole_folder = True
    """Whether everything in the folder is of the source, so that what no row names is told."""

    def __init__(self, licence: str | None = None) -> None:
        self.licence = licence

    @abstractmethod
    def entries(self, tree: Tree) -> Iterator[Entry | SourceRefusal]:
        """Rows of the index, in its order.

        Raises:
            SourceError: index or folders are missing or of another shape.
        """

    def open(self, path: Path) -> Tree:
        """The tree at `path`.

        Raises:
            SourceError: no such folder.
        """
        return Tree(path)

    def read(self, path: Path) -> Iterator[SourceItem | SourceRefusal]:
        """Stream items, refusals and, at the end, what lies there and no row has named.

        Raises:
            SourceError: there is no such source at `path`.
        """
        tree = self.open(path)
        against = self._contradicted(tree)
        seen: set[str] = set()
        for entry in self.entries(tree):
            if isinstance(entry, SourceRefusal):
                yield entry
            elif entry.key in against:
                yield contradiction(entry, against[entry.key])
            elif entry.key in seen:
                yield Repeat(entry.place.file, entry.place.line, f"listed before: {entry.key}")
            else:
                seen.add(entry.key)
                yield entry.place.uncounted().attempt(self._item, entry, tree)
        if self.whole_folder:
            yield from tree.rest()

    def said(self, tree: Tree) -> Iterator[Entry | SourceRefusal]:
        """The rows that are compared with one another before the first image is read; `entries`, where that costs little more."""
        return self.entries(tree)

    def _contradicted(self, tree: Tree) -> dict[str, str]:
        """Keys of which two rows say different things, with the place of the first row that differs from an earlier one."""
        first: dict[str, int] = {}
        against: dict[str, str] = {}
        for entry in self.said(tree):
            if isinstance(entry, SourceRefusal):
                continue
            says = hash((repr(entry.labels), entry.split, entry.group, entry.boxes, entry.phrase, _file_of(entry)))
            if entry.key not in first:
                first[entry.key] = says
            elif first[entry.key] == says:
                entry.place.repeat(f"listed before: {entry.key}")
            else:
                against.setdefault(entry.key, str(entry.place))
                contradiction(entry, against[entry.key])
        return against

    def _item(self, entry: Entry, tree: Tree) -> SourceItem:
        image = tree.image(entry.image) if isinstance(entry.image, str) else checked(entry.image)
        return SourceItem(
            key=entry.key,
            image=image.data,
            extension=image.extension,
            width=image.width,
            height=image.height,
            source=self.name,
            split=entry.split,
            group=None if entry.group is None else f"{self.name}:{entry.group}",
            labels=dict(entry.labels),
            regions=tuple(_region(entry.phrase, box, image) for box in entry.boxes),
            licence=self.licence,
            origin=entry.origin or entry.key,
        )


def contradiction(entry: Entry, other: str) -> SourceRefusal:
    """What every row for an image comes to of which one says another thing than the rest: none of them is believed.

    Args:
        entry: one of the rows.
        other: the place of the first row that differs from an earlier one.
    """
    where = "an earlier row" if other == str(entry.place) else other
    return entry.place.refuse(f"contradiction: another label, box, split or file than {where} has for {entry.key}")


def _file_of(entry: Entry) -> str | None:
    """The name of the image's file, the same however it is spelt; None where the row has the image itself."""
    if not isinstance(entry.image, str):
        return None
    try:
        return key_of(entry.image)
    except RefusedError:
        # Nothing that could be read: told where the image is.
        return entry.image


def _region(phrase: str, box: Box, image: CheckedImage) -> GroundedObject:
    x1, y1, x2, y2 = box
    if min(x1, y1) < -BOX_TOLERANCE or x2 > image.width + BOX_TOLERANCE or y2 > image.height + BOX_TOLERANCE:
        msg = f"bad box: {list(box)} leaves the image of {image.width}x{image.height}"
        raise RefusedError(msg)
    try:
        return GroundedObject.model_validate({"phrase": phrase, "bbox": box, "score": 1.0, "primary": True})
    except ValidationError as error:
        msg = f"bad box: {describe(error)}"
        raise RefusedError(msg) from None


def known_split(word: str | None) -> str | None:
    """The split that a row names, as this project writes it (train, val, test; others as they are).

    Raises:
        RefusedError: it cannot be part of a file name.
    """
    if word is None or not word.strip():
        return None
    name = SPLIT_BY_WORD.get(word.strip().lower(), composed(word.strip()))
    if not name.isidentifier() or len(name) > _LONGEST_SPLIT:
        msg = f"bad split: {word!r}, allowed: letters, digits and _"
        raise RefusedError(msg)
    return name
