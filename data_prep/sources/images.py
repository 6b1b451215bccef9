"""Checks that every image passes before it is stored: it decodes, has a sane size, stands upright and looks the same to all."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image, ImageOps

from emo_lightning.core.images import MAX_IMAGE_BYTES, eight_bit, image_size, opaque, open_image

MAX_BYTES = MAX_IMAGE_BYTES
MIN_SIDE = 16
MAX_ASPECT = 50

# MPO is what many phones write: a JPEG with a second picture behind it.
_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
_ORIENTATION = 0x0112


class ImageError(ValueError):
    """The bytes are no image that can be stored; the message says why.

    Whoever reads the bytes knows where they are from, and turns it into a `SourceRefusal` or a state of the image.
    """


@dataclass(frozen=True)
class CheckedImage:
    """An upright, opaque 8-bit image: its bytes, extension by content, and size in pixels."""

    data: bytes
    extension: str
    width: int
    height: int


def check_image(data: bytes) -> CheckedImage:
    """Decode once, apply EXIF orientation once; the bytes are kept as they are unless the image would not look the same to all.

    Written anew is what has to be turned, 16-bit grey (made 8-bit) and what is transparent (laid on white).

    Raises:
        ImageError: too large, not JPEG, PNG or WebP, animated, absurd size, or undecodable.
    """
    width, height = image_size(data, error=ImageError)
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_ASPECT * min(width, height):
        msg = f"size {width}x{height}: sides must be ≥ {MIN_SIDE} and the aspect ratio ≤ {MAX_ASPECT}"
        raise ImageError(msg)
    image = open_image(data, error=ImageError)
    try:
        return _check(image, data)
    except ImageError:
        raise
    # Damaged EXIF and colour profiles are found here, and Pillow raises many kinds of errors on them.
    except Exception as error:
        msg = f"does not decode: {type(error).__name__}: {error}"
        raise ImageError(msg) from None


def _check(image: Image.Image, data: bytes) -> CheckedImage:
    extension, (width, height) = _EXTENSIONS[image.format or ""], image.size
    if getattr(image, "is_animated", False) and image.format != "MPO":
        msg = "animated"
        raise ImageError(msg)
    orientation = image.getexif().get(_ORIENTATION, 1)
    stored = opaque(eight_bit(ImageOps.exif_transpose(image) if orientation in range(2, 9) else image))
    if stored is image:
        return CheckedImage(data, extension, width, height)
    out = io.BytesIO()
    # JPEG and WebP would lose the profile, and with it the colours of a wide-gamut photograph.
    kept = {"RGBA": "RGB", "P": "RGB"}.get(image.mode, image.mode) == stored.mode and image.info.get("icc_profile")
    profile = {"icc_profile": image.info["icc_profile"]} if kept else {}
    if extension == "jpg":
        stored.save(out, "JPEG", quality=95, subsampling=0, **profile)
    elif extension == "png":
        stored.save(out, "PNG", **profile)
    else:
        stored.save(out, "WEBP", quality=95, **profile)
    return CheckedImage(out.getvalue(), extension, *stored.size)
