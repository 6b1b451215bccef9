"""How any picture is opened, and becomes the 8-bit, opaque RGB that people and models see.

This is the only place that calls `Image.open`: Pillow knows some forty formats, of which one starts another program
(PostScript, Ghostscript), and believes the size that a file claims.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from emo_lightning.core.errors import InputError
from emo_lightning.core.foreign import MAX_PIXELS
from emo_lightning.core.jpegs import decoded_jpeg, is_plain_jpeg

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_IMAGE_BYTES",
    "MAX_PIXELS",
    "eight_bit",
    "encoded",
    "image_format",
    "image_size",
    "media_type",
    "opaque",
    "open_image",
    "rgb_image",
    "to_rgb",
    "turned",
]

PILLOW_FORMATS = ("JPEG", "PNG", "WEBP")
"""What Pillow may take a file for, whatever its name. MPO, which many phones write, is a JPEG with a second picture behind it."""
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
"""Ends of the names of files that are taken for images, whatever they hold (any case)."""
MAX_IMAGE_BYTES = 64 * 2**20

_OTHERS = {
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"%!PS": "PostScript",
    b"%PDF": "PDF",
    b"<svg": "SVG",
    b"<!DOCTYPE html": "HTML",
    b"<!doctype html": "HTML",
    b"<html": "HTML",
}
"""How files begin that people take for one of ours; for the message."""
_MEMORY = 480_000_000
"""Bytes that decoding may take, of a file of at most 10 MB; a larger one may take 48 for each of its own, as photographs do."""
_SCAN_WORK = 2_000_000_000
"""Pixels that a JPEG's scans may pass over: a progressive one of 24 MP has ten, a made-up one a million."""
_STRIP = 1 << 20
"""Pixels that are changed at a time."""


class _RefusedError(Exception):
    """Raised by the checks below, for `open_image`."""


def open_image(
    data: bytes,
    where: object = None,
    error: type[Exception] = InputError,
    *,
    upright: bool = False,
    reduced: int | None = None,
    size: tuple[int, int] | None = None,
) -> Image.Image:
    """A picture, decoded, in its own mode; `format`, `info` and `getexif` are as the file has them.

    Args:
        data: the file's bytes.
        where: file or member, put before the message; None where the caller does that.
        error: what is raised.
        upright: turn it as its EXIF orientation says.
        reduced: the size that a JPEG may be decoded at, half or less of its own, where the longer side stays at least as long.
        size: (width, height) that its record says; another one is refused before anything is decoded, so that a record cannot make a
            picture larger than it is, nor a picture its record.

    Raises:
        Exception: of the type `error`: no JPEG, PNG or WebP, damaged, or it claims more than it may cost.
    """
    with _refusals(where, error):
        image = _opened(data)
        _check_size(image, size, upright=upright)
        if reduced is not None:
            image.draft("L", (reduced, reduced))
        return _loaded(image, upright=upright)


def rgb_image(
    data: bytes, where: object = None, error: type[Exception] = InputError, *, size: tuple[int, int] | None = None
) -> Image.Image:
    """A picture as models see it: upright, 8 bits, opaque, RGB; arguments and errors as `open_image`.

    Pixels alone count: what else the file says may be gone. Plain JPEGs are decoded by simplejpeg, to Pillow's pixels (`DecodedImage`).
    """
    with _refusals(where, error):
        image = _opened(data)
        _check_size(image, size, upright=True)
        plain = is_plain_jpeg(image)
    if plain and (decoded := decoded_jpeg(data)) is not None and decoded.size == image.size:
        return decoded
    with _refusals(where, error):
        loaded = _loaded(image, upright=True)
    return to_rgb(loaded)


def image_size(
    data: bytes, where: object = None, error: type[Exception] = InputError, *, upright: bool = False
) -> tuple[int, int]:
    """(width, height) as the file's header says, or as `upright` turns it; nothing is decoded. Errors as `open_image`."""
    with _refusals(where, error):
        return _size(_opened(data), upright=upright)


@contextmanager
def _refusals(where: object, error: type[Exception]) -> Iterator[None]:
    """What a file is refused for becomes the caller's error."""
    try:
        yield
    except _RefusedError as refused:
        raise error(_said(where, str(refused))) from None
    # Pillow's plugins raise many kinds of errors on damaged files: OSError, SyntaxError, ValueError, struct.error, zlib.error, …
    except Exception as failure:
        raise error(_said(where, f"does not decode: {type(failure).__name__}: {failure}")) from None


def _check_size(image: Image.Image, size: tuple[int, int] | None, *, upright: bool) -> None:
    if size is not None and (found := _size(image, upright=upright)) != size:
        lying = " (as its EXIF turns it)" if found != image.size else ""
        msg = f"image is {found[0]}x{found[1]}{lying}, its record says {size[0]}x{size[1]}"
        raise _RefusedError(msg)


def _loaded(image: Image.Image, *, upright: bool) -> Image.Image:
    if upright:
        ImageOps.exif_transpose(image, in_place=True)
    image.load()
    return image


def _size(image: Image.Image, *, upright: bool) -> tuple[int, int]:
    """(width, height) of a picture whose header has been read."""
    sideways = upright and image.getexif().get(ExifTags.Base.Orientation) in range(5, 9)
    return (image.height, image.width) if sideways else image.size


def image_format(data: bytes) -> Literal["JPEG", "PNG", "WEBP"] | None:
    """Pillow's name of the format that the file begins as; None where it is none of those that are opened."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    return "WEBP" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def media_type(data: bytes) -> str:
    """`image/jpeg`, `image/png` or `image/webp`, by the bytes of a picture that `open_image` or `image_size` has taken."""
    return f"image/{(image_format(data) or 'JPEG').lower()}"


def encoded(image: Image.Image, kind: Literal["JPEG", "PNG", "WEBP"], **options: object) -> bytes:
    """A picture as a file that holds its pixels, and nothing of what else the file said that it came from.

    Pillow by itself writes comments, XMP and more out of `info`.

    Args:
        image: to be written.
        kind: Pillow's name of the format.
        options: of Pillow's `save`; `icc_profile` is written where it is given.
    """
    out, before = io.BytesIO(), image.info
    image.info = {key: value for key, value in before.items() if key == "transparency"}
    try:
        image.save(out, kind, **options)
    finally:
        image.info = before
    return out.getvalue()


def _said(where: object, what: str) -> str:
    return what if where is None else f"{where}: {what}"


def _opened(data: bytes) -> Image.Image:
    """The header is read, and what it claims is checked."""
    if len(data) > MAX_IMAGE_BYTES:
        msg = f"{len(data)} bytes, at most {MAX_IMAGE_BYTES} are read"
        raise _RefusedError(msg)
    if (claimed := _webp_size(data)) is not None:
        # Pillow's reader of WebP takes memory for two whole pictures before it tells their size.
        _check_cost(*claimed, 16, data)
    try:
        with warnings.catch_warnings():
            # The size is checked below, against our own limit.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=PILLOW_FORMATS)
    except UnidentifiedImageError:
        found = next(
            (f", but {kind}" for start, kind in _OTHERS.items() if data.startswith(start)), "" if data else ", but 0 bytes"
        )
        msg = f"not an image in JPEG, PNG or WebP{found}"
        raise _RefusedError(msg) from None
    except Image.DecompressionBombError as bomb:
        msg = f"decompression bomb: {bomb}"
        raise _RefusedError(msg) from None
    bands = len(image.getbands())
    # A progressive JPEG keeps all coefficients, of two bytes, until its last scan.
    cost = 16 if image.format == "WEBP" else 2 * bands + 4 if image.info.get("progressive") else 8
    # Laid on white, it is there twice more.
    cost += 4 if image.has_transparency_data else 0
    _check_cost(*image.size, cost, data)
    # In JPEG's data a byte 0xff is never followed by 0xda but where a scan begins.
    if image.format != "PNG" and image.format != "WEBP" and image.width * image.height * data.count(b"\xff\xda") > _SCAN_WORK:
        msg = f"decompression bomb: {image.width}x{image.height} in {data.count(bytes([255, 218]))} scans"
        raise _RefusedError(msg)
    return image


def _check_cost(width: int, height: int, per_pixel: int, data: bytes) -> None:
    """Refuse what would take more memory than its bytes explain.

    Args:
        width: as the file claims.
        height: as the file claims.
        per_pixel: bytes of memory.
        data: the file.
    """
    most = min(MAX_PIXELS, max(_MEMORY, 48 * len(data)) // per_pixel)
    if width * height > most:
        msg = f"decompression bomb: {width}x{height} is more than {most:,} pixels, the most for a file of {len(data):,} bytes"
        raise _RefusedError(msg)


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """What the header of a WebP claims (RFC 9649); None for another file, or one whose first chunk is none of its three."""
    if image_format(data) != "WEBP" or len(data) < 30:
        return None

    def number(start: int, length: int) -> int:
        return int.from_bytes(data[start : start + length], "little")

    match data[12:16]:
        case b"VP8X":
            return number(24, 3) + 1, number(27, 3) + 1
        case b"VP8L":
            bits = number(21, 4)
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            return number(26, 2) & 0x3FFF, number(28, 2) & 0x3FFF
        case _:
            return None


def _by_strips(image: Image.Image, mode: str, change: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """`change` applied to whole rows, a stretch at a time, so that what lies between takes no memory for the whole picture."""
    out = Image.new(mode, image.size)
    rows = max(1, _STRIP // max(1, image.width))
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        out.paste(change(strip), (0, top))
    return out


def turned(image: Image.Image) -> Image.Image:
    """The picture as its EXIF orientation says; the same object where it says nothing, or what it says cannot be read."""
    try:
        return ImageOps.exif_transpose(image) if image.getexif().get(ExifTags.Base.Orientation) in range(2, 9) else image
    # EXIF that somebody else has written, in a picture that is whole.
    except (SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return image


def eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey (Pillow's modes `I…`) as 8-bit grey; any other image is given back as it is.

    Pillow itself clips where it is asked for RGB: nearly everything would be white.
    """
    if not image.mode.startswith("I"):
        return image
    return _by_strips(image, "L", lambda strip: strip.convert("I").point(lambda value: value / 257).convert("L"))


def opaque(image: Image.Image) -> Image.Image:
    """Transparent parts on white, as a page shows them, in RGB; an image without any is given back as it is.

    A reader that asks Pillow for RGB would see the colours that hide below full transparency.
    """
    if not image.has_transparency_data:
        return image
    seen = False

    def on_white(strip: Image.Image) -> Image.Image:
        nonlocal seen
        layers = strip.convert("RGBA")
        seen = seen or layers.getchannel("A").getextrema() != (255, 255)
        return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers).convert("RGB")

    laid = _by_strips(image, "RGB", on_white)
    return laid if seen else image


def to_rgb(image: Image.Image) -> Image.Image:
    """8 bits a channel, three channels, nothing transparent.

    `emo prep import` stores images that way; tars and files from elsewhere may hold any.
    """
    plain = opaque(eight_bit(image))
    # It would be a copy, which costs half as much as decoding did.
    return plain if plain.mode == "RGB" else plain.convert("RGB")
