"""Single image files, as a user names them, and the grey that a blind model sees."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from emo_lightning.core.errors import InputError
from emo_lightning.core.images import read_image, to_rgb, turned
from emo_lightning.models.families import strictest_aspect_ratio

if TYPE_CHECKING:
    from emo_lightning.data.tar_index import TarIndex


def open_image(path: str | Path) -> Image.Image:
    """The picture in RGB, turned as its EXIF says.

    Raises:
        MissingFileError: no such file.
        InputError: no image, broken, absurdly large or long; names the file.
    """
    return check_shape(to_rgb(read_image(path, upright=True)), path)


def check_shape(picture: Image.Image, where: object) -> Image.Image:
    """The picture, unless it is longer than any backbone takes.

    Args:
        picture: upright.
        where: what messages call it.

    Raises:
        InputError: it is.
    """
    limit = strictest_aspect_ratio()
    if max(picture.size) > limit * min(picture.size):
        msg = f"{where}: {picture.width}x{picture.height}: aspect ratio above {limit:g}, which the backbone refuses"
        raise InputError(msg)
    return picture


def as_seen(picture: Image.Image) -> Image.Image:
    """A picture that somebody else has opened, as `open_image` and a tar give the same file: upright, 8 bits, opaque, RGB."""
    return to_rgb(turned(picture))


def grey(size: tuple[int, int]) -> Image.Image:
    """What a blind model is shown: (width, height) of middle grey."""
    return Image.new("RGB", size, (128, 128, 128))


def check_shapes(index: TarIndex) -> None:
    """Refuse pictures that no processor of a backbone takes, before the first step; no record is read.

    Raises:
        InputError: says how many, and names the first with its tar.
    """
    limit = strictest_aspect_ratio()
    sizes = index.sizes()
    rows = np.flatnonzero(sizes.max(axis=1) > limit * sizes.min(axis=1))
    if len(rows):
        first = int(rows[0])
        width, height = sizes[first]
        msg = (
            f"{index.where(first, 'json')}: the picture of {index.id(first)!r} has {width}x{height} pixels, more than {limit:g} times "
            f"as long as wide, which the backbone refuses ({len(rows)} of {len(index)} pictures); leave it out, or cut it"
        )
        raise InputError(msg)
