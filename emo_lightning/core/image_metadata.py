"""What an image file says beside its pixels (place, time, camera, author, comments), and the same file without it.

Kept is what the colours of the pixels depend on: colour profile, gamma, transparency, Adobe's marker. Pixels are not touched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from PIL import ExifTags

from emo_lightning.core.images import encoded, image_format, open_image

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = {
    *(b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP", b"sBIT", b"bKGD", b"pHYs"),
    *(b"mDCV", b"cLLI", b"acTL", b"fcTL", b"fdAT"),
}
_WEBP_KEPT = {b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ICCP", b"ANIM", b"ANMF"}
_WEBP_FLAGS = 0x08 | 0x04
"""Of VP8X: there is EXIF, there is XMP."""
_NEXT_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")
"""Behind the data of a scan; stuffed bytes and restarts are part of it."""
_SOI, _EOI, _SOS, _COM = 0xD8, 0xD9, 0xDA, 0xFE


class _OddFileError(Exception):
    """Not laid out as its format says."""


def without_metadata(data: bytes) -> bytes:
    """The file without what it says beside its pixels; the very same object where it says nothing.

    Args:
        data: a JPEG, PNG or WebP; one that is laid out oddly, or is to be turned, is decoded and written anew. Anything else is
            given back as it is.

    Raises:
        InputError: it begins as such an image, and does not decode.
    """
    if not image_format(data):
        return data
    try:
        clean = _clean(data)
    except (_OddFileError, IndexError):
        return _written_anew(data)
    if clean == data:
        return data
    return _written_anew(data) if _is_turned(data) else clean


def _clean(data: bytes) -> bytes:
    match image_format(data):
        case "JPEG":
            return b"".join(_jpeg_parts(data))
        case "PNG":
            return _PNG + b"".join(_png_parts(data))
        case _:
            body = b"WEBP" + b"".join(_webp_parts(data))
            return b"RIFF" + len(body).to_bytes(4, "little") + body


def _is_turned(data: bytes) -> bool:
    return open_image(data).getexif().get(ExifTags.Base.Orientation) in range(2, 9)


def _written_anew(data: bytes) -> bytes:
    image = open_image(data, upright=True)
    profile = image.info.get("icc_profile")
    match image_format(data):
        case "JPEG":
            return encoded(image, "JPEG", quality=95, subsampling=0, icc_profile=profile)
        case "WEBP":
            return encoded(image, "WEBP", quality=95, icc_profile=profile or "")
        case _:
            return encoded(image, "PNG", icc_profile=profile)


def _jpeg_parts(data: bytes) -> Iterator[bytes]:
    yield data[:2]
    at = 2
    while True:
        if data[at] != 0xFF:
            raise _OddFileError
        first = at
        while data[at + 1] == 0xFF:
            at += 1
        yield data[first:at]
        marker = data[at + 1]
        if marker == _EOI:
            # What lies behind it is another picture (MPO), a film, or anything at all.
            yield data[at : at + 2]
            return
        if marker == _SOI or marker == 0x01 or 0xD0 <= marker <= 0xD7:
            raise _OddFileError
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if end > len(data) or end < at + 4:
            raise _OddFileError
        segment = data[at:end]
        if marker == _SOS:
            found = _NEXT_MARKER.search(data, end)
            if found is None:
                yield data[at:]
                return
            yield data[at : found.start()]
            at = found.start()
            continue
        yield _jpeg_segment(marker, segment)
        at = end


def _jpeg_segment(marker: int, segment: bytes) -> bytes:
    """The segment, or what of it is kept."""
    body = segment[4:]
    if marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14:
        # Without its small picture.
        return segment if len(body) == 14 and body[12:14] == b"\0\0" else b"\xff\xe0\0\x10" + body[:12] + b"\0\0"
    if marker == 0xE2 and body.startswith(b"ICC_PROFILE\0"):
        return segment
    if marker == 0xEE and body.startswith(b"Adobe"):
        return segment
    return b"" if 0xE0 <= marker <= 0xEF or marker == _COM else segment


def _png_parts(data: bytes) -> Iterator[bytes]:
    at = len(_PNG)
    while at < len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + 12 + length
        if end > len(data):
            raise _OddFileError
        if kind in _PNG_KEPT:
            yield data[at:end]
        if kind == b"IEND":
            return
        at = end


def _webp_parts(data: bytes) -> Iterator[bytes]:
    at, end_of_file = 12, min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while at < end_of_file:
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        end = at + 8 + length + length % 2
        if at + 8 + length > len(data):
            raise _OddFileError
        chunk = data[at:end]
        if kind == b"VP8X":
            chunk = chunk[:8] + bytes([chunk[8] & ~_WEBP_FLAGS]) + chunk[9:]
        if kind in _WEBP_KEPT:
            yield chunk
        at = end
