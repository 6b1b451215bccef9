"""Single image files, as a user names them, and any picture as the model sees it."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from emo_lightning.data.boxes import MAX_ASPECT_RATIO


def open_image(path: str | Path) -> Image.Image:
    """The picture in RGB, turned as its EXIF says.

    Raises:
        ValueError: missing, no image, broken, absurdly large or long; names the file.
    """
    try:
        with Image.open(path) as image:
            picture = to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        msg = f"{path}: no such file"
        raise ValueError(msg) from None
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError, SyntaxError) as error:
        msg = f"{path}: not an image that can be decoded: {error}"
        raise ValueError(msg) from None
    if max(picture.size) > MAX_ASPECT_RATIO * min(picture.size):
        msg = f"{path}: {picture.width}x{picture.height}: aspect ratio above {MAX_ASPECT_RATIO}, which Qwen-VL refuses"
        raise ValueError(msg)
    return picture


def to_rgb(image: Image.Image) -> Image.Image:
    """8 bits a channel: 16-bit grey scaled, which Pillow would clip to white, and transparent parts on white, as a page shows them.

    `emo prep import` stores images that way; tars and files from elsewhere may hold any.
    """
    if image.mode.startswith("I"):
        image = image.convert("I").point(lambda value: value / 257).convert("L")
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers)
    return image.convert("RGB")


def grey(size: tuple[int, int]) -> Image.Image:
    """What a blind model is shown: (width, height) of middle grey."""
    return Image.new("RGB", size, (128, 128, 128))
