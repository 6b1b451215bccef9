"""Single image files, as a user names them, and the grey that a blind model sees."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from emo_lightning.core.errors import InputError
from emo_lightning.core.images import read_image, to_rgb
from emo_lightning.models.families import strictest_aspect_ratio


def open_image(path: str | Path) -> Image.Image:
    """The picture in RGB, turned as its EXIF says.

    Raises:
        MissingFileError: no such file.
        InputError: no image, broken, absurdly large or long; names the file.
    """
    picture = to_rgb(read_image(path, upright=True))
    limit = strictest_aspect_ratio()
    if max(picture.size) > limit * min(picture.size):
        msg = f"{path}: {picture.width}x{picture.height}: aspect ratio above {limit:g}, which the backbone refuses"
        raise InputError(msg)
    return picture


def grey(size: tuple[int, int]) -> Image.Image:
    """What a blind model is shown: (width, height) of middle grey."""
    return Image.new("RGB", size, (128, 128, 128))
