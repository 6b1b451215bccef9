"""A 64-bit perceptual hash: the signs of the 64 lowest frequencies of the image's luminance (a discrete cosine transform).

Signs, not comparison with a median: mirroring an image turns exactly the signs of the odd horizontal frequencies, so the hash of
the mirrored image is `hash ^ MIRROR` and need be neither computed nor stored.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from data_prep.engine import Result, Row, Step

METHOD = "dct64-1"
"""Name of this very function in the ledger: to be changed whenever hashes come out differently."""

_WORK = 256
"""Pixels of the longer side that an image is reduced to first."""
_SIDE = 32
_FLAT = 1.0
"""Root mean square of the 64 frequencies, in grey levels of 0–255, below which an image shows nothing that could be compared."""
_TOLERANCE = 20
"""Grey levels by which the pixels of a border may differ (JPEG)."""
_LEAST_BORDER, _MOST_BORDER = 0.02, 0.3
"""Shares of a side that a border takes at one end; less of it hardly changes the hash."""

_FREQUENCIES = sorted(
    ((v, h) for v in range(16) for h in range(16) if (v, h) != (0, 0)), key=lambda f: (f[0] ** 2 + f[1] ** 2, f)
)[:64]
_VERTICAL, _HORIZONTAL = (np.array(f) for f in zip(*_FREQUENCIES, strict=True))


def _packed(bits: np.ndarray) -> int:
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


MIRROR = _packed(_HORIZONTAL % 2 == 1)
"""Bits that change when an image is mirrored."""


def fingerprint(data: bytes) -> bytes:
    """Hashes of an image, 8 bytes each, big-endian: of the whole, then, where it has a plain border, of what is inside it.

    Empty for an image that shows nothing (a plain colour): it is like no other.

    Args:
        data: an encoded, upright image.
    """
    grey = luminance(data)
    views = [hash_of(grey)]
    inside = without_border(grey)
    if inside is not grey:
        views.append(hash_of(inside))
    return b"".join(view.to_bytes(8, "big") for view in dict.fromkeys(views) if view is not None)


def luminance(data: bytes) -> np.ndarray:
    """(height, width) uint8, at most 256 on the longer side; transparent parts are white."""
    with Image.open(io.BytesIO(data)) as image:
        # JPEG decodes at an eighth, a quarter or half the size for the asking.
        image.draft("L", (2 * _WORK, 2 * _WORK))
        grey: Image.Image
        if image.mode.startswith("I"):
            grey = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
        elif image.has_transparency_data:
            layer = image.convert("RGBA")
            grey = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("L")
        else:
            grey = image.convert("L")
        grey.thumbnail((_WORK, _WORK), Image.Resampling.BOX, reducing_gap=None)
        return np.asarray(grey)


def hash_of(grey: np.ndarray) -> int | None:
    """The hash of a (height, width) uint8 array; None where it is plain."""
    from scipy.fft import dctn

    small = Image.fromarray(grey).resize((_SIDE, _SIDE), Image.Resampling.BOX)
    spectrum = dctn(np.asarray(small, dtype=np.float64), norm="ortho")[_VERTICAL, _HORIZONTAL]
    if np.sqrt(np.square(spectrum).sum()) / _SIDE < _FLAT:
        return None
    return _packed(spectrum > 0)


def without_border(grey: np.ndarray) -> np.ndarray:
    """The part inside a plain border; the very same array where there is none or nothing else."""
    height, width = grey.shape
    top, bottom = _plain(grey), _plain(grey[::-1])
    left, right = _plain(grey.T), _plain(grey.T[::-1])
    if not (top or bottom or left or right):
        return grey
    inside = grey[top : height - bottom, left : width - right]
    return inside if min(inside.shape) >= _SIDE // 2 else grey


def _plain(lines: np.ndarray) -> int:
    """Lines of a border at the beginning: plain, and of the first one's shade."""
    most = int(len(lines) * _MOST_BORDER)
    rows = lines[: most + 1].astype(np.int16)
    differs = np.abs(rows - np.median(rows[0])).max(axis=1) > _TOLERANCE
    count = int(differs.argmax()) if differs.any() else len(rows)
    return count if max(1, _LEAST_BORDER * len(lines)) <= count <= most else 0


class Hashing(Step):
    """`fingerprint` of every image."""

    resident = False

    def prepare(self, data: bytes) -> bytes:
        """The hashes: all of the work is done in the threads."""
        return fingerprint(data)

    def load(self) -> Callable[[Sequence[Row], Sequence[Any]], list[Result]]:
        """Nothing is loaded."""
        return lambda rows, prepared: list(prepared)
