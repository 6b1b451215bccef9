"""Single image files, as a user names them."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError


def open_image(path: str | Path) -> Image.Image:
    """The picture in RGB, turned as its EXIF says.

    Raises:
        ValueError: missing, no image, broken or absurdly large; names the file.
    """
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError, SyntaxError) as error:
        raise ValueError(f"{path}: not an image that can be decoded: {error}") from None
