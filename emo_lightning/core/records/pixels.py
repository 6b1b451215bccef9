"""Boxes are in pixels of their image; fractions of it are refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from emo_lightning.core.emotions import SchemaError


class HasBox(Protocol):
    """What has a box."""

    @property
    def bbox(self) -> Sequence[float]:
        """(x1, y1, x2, y2)."""
        ...


class Boxed(Protocol):
    """What has regions of an image."""

    @property
    def id(self) -> str:
        """Of the image."""
        ...

    @property
    def width(self) -> int | None:
        """Of the image, in pixels, where it is known."""
        ...

    @property
    def height(self) -> int | None:
        """Of the image, in pixels, where it is known."""
        ...

    @property
    def objects(self) -> Sequence[HasBox]:
        """Its regions."""
        ...


def refuse_fractions(items: Sequence[Boxed], where: str, *, annotated: bool) -> None:
    """Refuse boxes that are fractions of their image: they fit into it, and no comparison notices.

    Args:
        items: of one origin. A single box of one pixel in a corner is possible; that all boxes are is not.
        where: file, and line or member, for the message.
        annotated: some of the boxes are annotations. A model may well answer with the first pixel.

    Raises:
        SchemaError: all boxes of all items lie within 0–1.
    """
    boxes = [(item.id, box.bbox) for item in items if (item.width or 2) > 1 and (item.height or 2) > 1 for box in item.objects]
    numbers = [number for _, box in boxes for number in box]
    meant = annotated or any(number % 1 for number in numbers)
    if numbers and meant and all(0 <= number <= 1 for number in numbers):
        key, box = boxes[0]
        msg = f"{where}: all boxes lie within 0–1, the first, of {key!r}: {list(box)}; expected (x1, y1, x2, y2) in pixels of the image"
        raise SchemaError(msg)
