"""Boxes of models that are not ours, in the coordinates that they are declared to use."""

from __future__ import annotations

from collections.abc import Sequence

from emo_lightning.core.errors import InputError
from emo_lightning.core.records import Box
from emo_lightning.models.families import AbsolutePixels, BoxCodec, Relative1000, Size
from emo_lightning.models.families.resize import resized_size

RESIZE_FACTOR = 28
"""Patch size × merge size of the servers that speak in `resized` coordinates, in pixels."""


class DeclaredBoxes:
    """Reads a model's boxes; only `decode` is of use, as nobody trains such a model here.

    Args:
        boxes: `pixels` of the image as sent, `resized`: of Qwen2.5-VL's resized image, `thousandths` of the image.
        order: `xyxy` or `yxyx`, of the four numbers.
        min_pixels: lower limit of the server's image processor, for `resized`.
        max_pixels: upper limit of it.

    Raises:
        InputError: an unknown kind or order.
    """

    def __init__(self, boxes: str, order: str = "xyxy", min_pixels: int = 3136, max_pixels: int = 12845056) -> None:
        if order not in ("xyxy", "yxyx"):
            msg = f"order={order!r}; allowed: xyxy, yxyx"
            raise InputError(msg)
        self.boxes, self.turned, self.limits = boxes, order == "yxyx", (min_pixels, max_pixels)
        self._codec: BoxCodec
        match boxes:
            case "pixels" | "resized":
                self._codec = AbsolutePixels()
            case "thousandths":
                self._codec = Relative1000()
            case _:
                msg = f"boxes={boxes!r}; allowed: pixels, resized, thousandths"
                raise InputError(msg)

    def frame(self, original: Size) -> Size:
        """The (width, height) that the numbers refer to."""
        if self.boxes != "resized":
            return original
        return resized_size(*original, factor=RESIZE_FACTOR, min_pixels=self.limits[0], max_pixels=self.limits[1])

    def encode(self, box: Sequence[float], original_size: Size, resized_size: Size) -> tuple[int, int, int, int]:
        """See `BoxCodec.encode`."""
        x1, y1, x2, y2 = self._codec.encode(box, original_size, resized_size)
        return (y1, x1, y2, x2) if self.turned else (x1, y1, x2, y2)

    def decode(self, box: Sequence[float], original_size: Size, resized_size: Size) -> Box:
        """See `BoxCodec.decode`."""
        if self.turned and len(box) == 4:
            box = [box[1], box[0], box[3], box[2]]
        return self._codec.decode(box, original_size, resized_size)
