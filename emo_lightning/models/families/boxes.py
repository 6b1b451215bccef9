"""Between boxes in pixels of the original image and the four numbers that stand in the chat.

Qwen2.5-VL speaks in absolute pixels of the *resized* image that it sees; its relatives in thousandths of the image.
Which one a backbone uses, its family says (`Family.codec`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from typing_extensions import override

from emo_lightning.core.records import Box

Size = tuple[int, int]
"""`(width, height)` in pixels, the order of PIL."""


class BoxCodec(Protocol):
    """How a family of models writes a box. Boxes are `(x1, y1, x2, y2)`; sizes are `(width, height)`."""

    def encode(self, box: Sequence[float], original_size: Size, resized_size: Size) -> tuple[int, int, int, int]:
        """Original-image pixels to the model's whole numbers: within the frame, never empty.

        Off by at most half a unit of the model's frame; a side shorter than one unit is widened to one (at most one unit off).

        Raises:
            ValueError: not four finite numbers, or x1 > x2 or y1 > y2.
        """
        ...

    def decode(self, box: Sequence[float], original_size: Size, resized_size: Size) -> Box:
        """The model's numbers to original-image pixels, as they are: a box may leave the image, or be turned.

        Raises:
            ValueError: not four finite numbers.
        """
        ...


@dataclass(frozen=True)
class AbsolutePixels(BoxCodec):
    """Whole pixels of the resized image (Qwen2.5-VL)."""

    @override
    def encode(self, box: Sequence[float], original_size: Size, resized_size: Size) -> tuple[int, int, int, int]:
        """See `BoxCodec.encode`."""
        return _encode(box, original_size, resized_size)

    @override
    def decode(self, box: Sequence[float], original_size: Size, resized_size: Size) -> Box:
        """See `BoxCodec.decode`."""
        return _decode(box, original_size, resized_size)


@dataclass(frozen=True)
class Relative1000(BoxCodec):
    """Thousandths of the image's width and height (Qwen2-VL, Qwen3-VL); the resized size plays no part."""

    FRAME: ClassVar[Size] = (1000, 1000)

    @override
    def encode(self, box: Sequence[float], original_size: Size, resized_size: Size) -> tuple[int, int, int, int]:
        """See `BoxCodec.encode`."""
        return _encode(box, original_size, self.FRAME)

    @override
    def decode(self, box: Sequence[float], original_size: Size, resized_size: Size) -> Box:
        """See `BoxCodec.decode`."""
        return _decode(box, original_size, self.FRAME)


def _encode(box: Sequence[float], original: Size, frame: Size) -> tuple[int, int, int, int]:
    x1, y1, x2, y2 = _four_numbers(box)
    if x1 > x2 or y1 > y2:
        msg = f"box {list(box)} is turned; expected x1 <= x2 and y1 <= y2"
        raise ValueError(msg)
    left, right = _encode_side(x1, x2, original[0], frame[0])
    top, bottom = _encode_side(y1, y2, original[1], frame[1])
    return left, top, right, bottom


def _encode_side(low: float, high: float, original: int, frame: int) -> tuple[int, int]:
    low, high = (min(max(value * frame / original, 0.0), float(frame)) for value in (low, high))
    # Half up, not half to even: then a side of one unit or more can never round to nothing.
    first, last = math.floor(low + 0.5), math.floor(high + 0.5)
    if first == last:
        # Widen towards the side that is nearer to the true edge, within the frame.
        if first == 0 or (last < frame and (last + 1) - high <= low - (first - 1)):
            last += 1
        else:
            first -= 1
    return first, last


def _decode(box: Sequence[float], original: Size, frame: Size) -> Box:
    x1, y1, x2, y2 = _four_numbers(box)
    across, down = original
    return x1 * across / frame[0], y1 * down / frame[1], x2 * across / frame[0], y2 * down / frame[1]


def _four_numbers(box: Sequence[float]) -> tuple[float, float, float, float]:
    if len(box) != 4 or not all(math.isfinite(value) for value in box):
        msg = f"box {list(box)} is not four finite numbers [x1, y1, x2, y2]"
        raise ValueError(msg)
    x1, y1, x2, y2 = (float(value) for value in box)
    return x1, y1, x2, y2
