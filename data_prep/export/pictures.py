"""One type of image in an export, and what an image of another type becomes.

Hugging Face's `datasets` takes a tar for WebDataset only where its samples have the same members, so jpg beside png is refused by it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Literal, get_args

from PIL import ExifTags, Image

from emo_lightning.core.errors import InputError
from emo_lightning.core.images import eight_bit, encoded, opaque, open_image
from emo_lightning.core.records import IMAGE_EXTENSIONS

ImageType = Literal["jpg", "png", "webp", "keep"]
"""The type of all images of an export; `keep` leaves each as it is."""

IMAGE_TYPES: tuple[ImageType, ...] = get_args(ImageType)

CONVERSIONS = {
    "jpg": "JPEG of quality 95 without subsampling",
    "png": "PNG, lossless",
    "webp": "WebP, lossless from PNG, else of quality 95",
}
"""How an image of another type is written."""

_OPTIONS: dict[str, dict[str, object]] = {
    "jpg": {"quality": 95, "subsampling": 0},
    "png": {},
    "webp": {"quality": 95},
}
_KINDS: dict[str, Literal["JPEG", "PNG", "WEBP"]] = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
_PLAIN = {"JPEG": ("L", "RGB"), "PNG": ("L", "RGB"), "WEBP": ("RGB",)}
"""Modes that a format holds and that every reader shows alike."""


def most_common(extensions: Iterable[str]) -> ImageType:
    """The type that most images have; of equals the first of `IMAGE_EXTENSIONS`, which is also that of no image at all."""
    counts = Counter(extensions)
    found = max(IMAGE_EXTENSIONS, key=lambda extension: counts[extension])
    return next(one for one in IMAGE_TYPES if one == found)


def as_type(data: bytes, extension: str, wanted: str, where: object, size: tuple[int, int], error: type[InputError]) -> bytes:
    """An image as a file of another type, upright, opaque, with 8 bits a channel: what readers of the first one see.

    Its colour profile stays where its colours mean the same, and its EXIF where it has one, without the orientation, which is applied.

    Args:
        data: the file.
        extension: its type.
        wanted: `jpg`, `png` or `webp`; the same type gives the same bytes back.
        where: what it is of, for messages.
        size: (width, height) that its record says; boxes and masks count in these pixels.
        error: what is raised.

    Raises:
        InputError: of the type `error`: it does not decode, or has another size.
    """
    if extension == wanted:
        return data
    kind = _KINDS[wanted]
    image = open_image(data, where, error, upright=True)
    if image.size != size:
        msg = f"{where}: image is {image.width}x{image.height}, its record says {size[0]}x{size[1]}"
        raise error(msg)
    # The metadata of some files is damaged, and the picture whole; `--keep-metadata` alone lets any through to here.
    exif = image.getexif()
    exif.pop(ExifTags.Base.Orientation, None)
    options = dict(_OPTIONS[wanted])
    if wanted == "webp" and extension == "png":
        options["lossless"] = True
    plain = opaque(eight_bit(image))
    if plain.mode not in _PLAIN[kind]:
        plain = plain.convert("RGB")
    if profile := _profile(image, plain):
        options["icc_profile"] = profile
    if len(exif):
        options["exif"] = exif.tobytes()
    return encoded(plain, kind, **options)


def _profile(image: Image.Image, plain: Image.Image) -> bytes | None:
    """The colour profile, where the pixels written are of the colours that it is for (a CMYK profile is not one of RGB)."""
    found = image.info.get("icc_profile")
    same = {"RGBA": "RGB", "P": "RGB", "PA": "RGB", "LA": "L", "I;16": "L"}.get(image.mode, image.mode) == plain.mode
    return found if same and isinstance(found, bytes) else None
