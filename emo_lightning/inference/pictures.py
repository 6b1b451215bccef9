"""Pictures as a user has them: paths, addresses, bytes, arrays, or opened by Pillow."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import Image

from emo_lightning.core.errors import InputError
from emo_lightning.core.images import rgb_image, to_rgb
from emo_lightning.data.images import as_seen, check_shape, open_rgb_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

ImageLike: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]"
"""A path, an address (`http://`, `https://`), a file's bytes, a picture that Pillow has opened, or pixels: (height, width) grey,
(height, width, 3) RGB or (height, width, 4) RGBA, uint8."""

_ADDRESSES = ("http://", "https://")
_CHANNELS = {1: "L", 3: "RGB", 4: "RGBA"}


def is_address(image: object) -> bool:
    """Whether it is the address of a picture on the web."""
    return isinstance(image, str) and image.startswith(_ADDRESSES)


def as_picture(image: ImageLike, where: str = "image") -> Image.Image:
    """The picture as models see it: RGB, turned as its EXIF says.

    Args:
        image: see `ImageLike`.
        where: what messages call it, where it has no name of its own.

    Raises:
        InputError: no image, broken, absurdly large or long, or cannot be had; names it.
        TypeError: it is none of the kinds.
    """
    match image:
        case bytes() | bytearray() | memoryview():
            return check_shape(rgb_image(bytes(image), where), where)
        case Image.Image():
            return check_shape(as_seen(image), where)
        case np.ndarray():
            return check_shape(to_rgb(_from_pixels(image, where)), where)
        case str() if is_address(image):
            from emo_lightning.core.web.fetch import fetch_image

            return check_shape(rgb_image(fetch_image(image), image), image)
        case str() | os.PathLike():
            return open_rgb_image(Path(image))
        case _:
            msg = f"{where}: {type(image).__name__}; expected a path, an address, bytes, a PIL image or a uint8 array"
            raise TypeError(msg)


def as_list(images: ImageLike | Sequence[ImageLike]) -> list[ImageLike]:
    """Several pictures; one alone counts as a list of one."""
    return list(images) if isinstance(images, list | tuple) else [images]  # type: ignore[list-item] # any other sequence is an image


def name_of(image: ImageLike, number: int) -> str:
    """What an image is called where nobody says: its file's stem, its address, or its number."""
    if isinstance(image, str) and is_address(image):
        return image
    return Path(image).stem if isinstance(image, str | os.PathLike) else str(number)


def _from_pixels(pixels: NDArray[np.generic], where: str) -> Image.Image:
    channels = pixels.shape[2] if pixels.ndim == 3 else 1 if pixels.ndim == 2 else 0
    if pixels.dtype != np.uint8 or channels not in _CHANNELS or not pixels.size:
        msg = (
            f"{where}: an array of {pixels.dtype} with shape {pixels.shape}; expected uint8 with shape (height, width), "
            "(height, width, 3) or (height, width, 4)"
        )
        raise InputError(msg)
    flat = pixels[..., 0] if pixels.ndim == 3 and channels == 1 else pixels
    return Image.fromarray(np.ascontiguousarray(flat))
