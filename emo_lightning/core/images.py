"""How any picture becomes the 8-bit, opaque RGB that people and models see. Pillow alone."""

from __future__ import annotations

from PIL import Image


def eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey (Pillow's modes `I…`) as 8-bit grey; any other image is given back as it is.

    Pillow itself clips where it is asked for RGB: nearly everything would be white.
    """
    if not image.mode.startswith("I"):
        return image
    return image.convert("I").point(lambda value: value / 257).convert("L")


def opaque(image: Image.Image) -> Image.Image:
    """Transparent parts on white, as a page shows them, in RGB; an image without any is given back as it is.

    A reader that asks Pillow for RGB would see the colours that hide below full transparency.
    """
    if not image.has_transparency_data:
        return image
    layers = image.convert("RGBA")
    if layers.getchannel("A").getextrema() == (255, 255):
        return image
    return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers).convert("RGB")


def to_rgb(image: Image.Image) -> Image.Image:
    """8 bits a channel, three channels, nothing transparent.

    `emo prep import` stores images that way; tars and files from elsewhere may hold any.
    """
    return opaque(eight_bit(image)).convert("RGB")
