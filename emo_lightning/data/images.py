"""Single image files, as a user names them, and the grey that a blind model sees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, ImageFilter, ImageStat

from emo_lightning.core.errors import InputError
from emo_lightning.core.foreign import read_capped
from emo_lightning.core.images import MAX_IMAGE_BYTES, rgb_image, to_rgb, turned
from emo_lightning.data.stand_ins import beyond_limit, too_long
from emo_lightning.models.families import strictest_aspect_ratio

if TYPE_CHECKING:
    from emo_lightning.data.tar_index import TarIndex

PixelBox = tuple[int, int, int, int]
"""(x1, y1, x2, y2) in whole pixels, x2 and y2 exclusive."""
MaskFill = Literal["mean", "blur"]
"""How a box is covered: painted in the image's mean colour, or blurred."""
BLUR_SHARE = 0.25
"""Radius of the blur as a share of the box's shorter side."""


def open_rgb_image(path: str | Path) -> Image.Image:
    """The picture in RGB, turned as its EXIF says.

    Raises:
        MissingFileError: no such file.
        InputError: no image, broken, absurdly large or long; names the file.
    """
    return check_shape(rgb_image(read_capped(path, MAX_IMAGE_BYTES), path), path)


def check_shape(picture: Image.Image, where: object) -> Image.Image:
    """The picture, unless it is longer than any backbone takes.

    Args:
        picture: upright.
        where: what messages call it.

    Raises:
        InputError: it is.
    """
    if too_long(np.array([picture.size]))[0]:
        msg = f"{where}: {beyond_limit(*picture.size)}"
        raise InputError(msg)
    return picture


def as_seen(picture: Image.Image) -> Image.Image:
    """A picture that somebody else has opened, as `open_rgb_image` and a tar give the same file: upright, 8 bits, opaque, RGB."""
    return to_rgb(turned(picture))


def grey(size: tuple[int, int]) -> Image.Image:
    """What a blind model is shown: (width, height) of middle grey."""
    return Image.new("RGB", size, (128, 128, 128))


def whole_pixels(box: Sequence[float], size: tuple[int, int]) -> PixelBox | None:
    """Whole pixels within the image, or None where nothing is left."""
    if not np.isfinite(box).all():
        return None
    x1, y1 = max(0, int(np.floor(box[0]))), max(0, int(np.floor(box[1])))
    x2, y2 = min(size[0], int(np.ceil(box[2]))), min(size[1], int(np.ceil(box[3])))
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def masked(image: Image.Image, box: PixelBox, how: MaskFill) -> Image.Image:
    """A copy of an RGB image with one box painted in the image's mean colour, or blurred."""
    out = image.copy()
    size = (box[2] - box[0], box[3] - box[1])
    match how:
        case "mean":
            red, green, blue = (round(channel) for channel in ImageStat.Stat(image).mean[:3])
            out.paste(Image.new("RGB", size, (red, green, blue)), box[:2])
        case "blur":
            # The whole image is blurred and the box cut out of it, so that the box has no hard inner edge.
            blurred = image.filter(ImageFilter.GaussianBlur(max(1.0, BLUR_SHARE * min(size))))
            out.paste(blurred.crop(box), box[:2])
        case _:
            msg = f"mask {how!r}; allowed: mean, blur"
            raise InputError(msg)
    return out


def check_shapes(index: TarIndex) -> None:
    """Refuse pictures that no processor of a backbone takes, before the first step; no record is read.

    Something stands in their place already where they are left out (`data.on_error: skip`).

    Raises:
        InputError: says how many, and names the first with its tar.
    """
    limit = strictest_aspect_ratio()
    sizes = index.sizes()
    rows = np.flatnonzero(too_long(sizes))
    if len(rows):
        first = int(rows[0])
        width, height = sizes[first]
        msg = (
            f"{index.where_image(first)}: the picture of {index.id(first)!r} has {width}x{height} pixels, more than {limit:g} times "
            f"as long as wide, which the backbone refuses ({len(rows)} of {len(index)} pictures); leave it out, cut it, or set data.on_error: skip"
        )
        raise InputError(msg)
