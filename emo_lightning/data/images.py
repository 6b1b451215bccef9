"""Single image files, as a user names them, and the grey that a blind model sees."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from emo_lightning.core.errors import InputError, MissingFileError
from emo_lightning.core.images import to_rgb
from emo_lightning.models.families import strictest_aspect_ratio


def open_image(path: str | Path) -> Image.Image:
    """The picture in RGB, turned as its EXIF says.

    Raises:
        MissingFileError: no such file.
        InputError: no image, broken, absurdly large or long; names the file.
    """
    try:
        with Image.open(path) as image:
            picture = to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        msg = f"{path}: no such file"
        raise MissingFileError(msg) from None
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError, SyntaxError) as error:
        msg = f"{path}: not an image that can be decoded: {error}"
        raise InputError(msg) from None
    limit = strictest_aspect_ratio()
    if max(picture.size) > limit * min(picture.size):
        msg = f"{path}: {picture.width}x{picture.height}: aspect ratio above {limit:g}, which the backbone refuses"
        raise InputError(msg)
    return picture


def grey(size: tuple[int, int]) -> Image.Image:
    """What a blind model is shown: (width, height) of middle grey."""
    return Image.new("RGB", size, (128, 128, 128))
