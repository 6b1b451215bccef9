"""A 64-bit perceptual hash: the signs of the 64 lowest frequencies of the image's luminance (a discrete cosine transform).

Signs, not comparison with a median: mirroring an image turns exactly the signs of the odd horizontal frequencies, so the hash of
the mirrored image is `hash ^ MIRROR` and need be neither computed nor stored.

A crop moves every frequency, so the hash of the whole does not find it. The hashes of many windows of the image are kept too: one of
them shows about what the crop shows.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_prep.engine import EngineResult, ItemRow, Step
from emo_lightning.core.images import open_image

Grey = NDArray[np.uint8]
"""(height, width)."""

PHASH_METHOD = "dct64-2"
"""Name of this very function in the ledger: to be changed whenever hashes come out differently."""

_WORK = 256
"""Pixels of the longer side that an image is reduced to first."""
_SIDE = 32
_FLAT = 1.0
"""Root mean square of the 64 frequencies, in grey levels of 0–255, below which an image shows nothing that could be compared."""
_ZERO = 1e-6
"""Above the rounding of a frequency that is not there: its sign must not hang on the machine."""
_TOLERANCE = 20
"""Grey levels by which the pixels of a border may differ (JPEG)."""
_LEAST_BORDER, _MOST_BORDER = 0.02, 0.3
"""Shares of a side that a border takes at one end; less of it hardly changes the hash."""

_FREQUENCIES = sorted(
    ((v, h) for v in range(16) for h in range(16) if (v, h) != (0, 0)), key=lambda f: (f[0] ** 2 + f[1] ** 2, f)
)[:64]
_VERTICAL, _HORIZONTAL = (np.array(f) for f in zip(*_FREQUENCIES, strict=True))
_ORDERS = int(max(_VERTICAL.max(), _HORIZONTAL.max())) + 1

_STRIP = 2
"""Rows of a product of matrices computed at once (the number of rows is even: ten intervals)."""

_INTERVALS = ((0.0, 1.0), *((start * (1 - size), size) for size in (0.95, 0.9, 0.85) for start in (0.0, 0.5, 1.0)))
"""Along each side: start and length as shares. Every one of them with every other makes a window; the first is the whole."""
WINDOWS = tuple((left, top, width, height) for (top, height), (left, width) in itertools.product(_INTERVALS, repeat=2))
"""Left, top, width, height as shares of the sides."""
CENTRE_WINDOW = WINDOWS.index((0.5 * (1 - 0.9), 0.5 * (1 - 0.9), 0.9, 0.9))
"""The window that a crop is most like on average, wherever it was cut."""


def _packed(bits: NDArray[np.bool_]) -> int:
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


MIRROR_BITS = _packed(_HORIZONTAL % 2 == 1)
"""Bits that change when an image is mirrored."""


def perceptual_hashes(data: bytes) -> bytes:
    """Hashes of an image, 8 bytes each, big-endian: of each of `WINDOWS` inside its plain border; then, if it has one, of the whole.

    Empty for an image that shows nothing (a plain colour): it is like no other.

    Args:
        data: an encoded, upright image.
    """
    grey = luminance(data)
    inside = without_border(grey)
    whole = hashes_of(grey)
    hashes = whole if inside is grey else hashes_of(inside)
    if hashes is None:
        hashes = whole
    if hashes is None:
        return b""
    if whole is not None and whole[0] not in hashes[:1]:
        hashes = np.append(hashes, whole[0])
    return hashes.astype(">u8").tobytes()


def wholes(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Of a fingerprint as numbers: the hash inside the border, and the one with it, if there is a border."""
    return np.concatenate([hashes[:1], hashes[len(WINDOWS) :]])


def inside_of(data: bytes) -> Grey:
    """What the windows of an encoded image are windows of: `luminance`, without a plain border."""
    grey = luminance(data)
    inside = without_border(grey)
    return grey if inside is not grey and hashes_of(inside) is None else inside


def luminance(data: bytes) -> Grey:
    """(height, width) uint8, at most 256 on the longer side; transparent parts are white."""
    image = open_image(data, "an image of the store", reduced=2 * _WORK)
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


def hashes_of(grey: Grey) -> NDArray[np.uint64] | None:
    """(windows,) uint64 hashes of a (height, width) uint8 array; None where it is plain. A plain window has the hash of the whole."""
    height, width = grey.shape
    count = len(_INTERVALS)
    # In strips: a product this small is computed in the calling thread, where BLAS would wake (and wait for) all cores.
    strips = _waves(height).reshape(-1, _STRIP, height) @ grey.astype(np.float64) @ _waves(width).T
    lowest = strips.reshape(count * _ORDERS, count * _ORDERS)
    by_window = lowest.reshape(count, _ORDERS, count, _ORDERS)[:, _VERTICAL, :, _HORIZONTAL]
    spectra = np.moveaxis(by_window, 0, -1).reshape(len(WINDOWS), len(_FREQUENCIES))
    plain = np.sqrt(np.square(spectra).sum(1)) / _SIDE < _FLAT
    if plain[0]:
        return None
    hashes = np.frombuffer(np.packbits(spectra > _ZERO, axis=1).tobytes(), ">u8").astype(np.uint64)
    return np.where(plain, hashes[0], hashes)


@functools.lru_cache(maxsize=2 * _WORK)
def _waves(length: int) -> NDArray[np.float64]:
    """(intervals × orders, length): what a line of pixels is multiplied by to reduce each interval to `_SIDE` means and transform them."""
    left, right = np.arange(length), np.arange(1, length + 1)
    angles = np.pi * (2 * np.arange(_SIDE) + 1) / (2 * _SIDE)
    cosines = np.cos(np.arange(_ORDERS)[:, None] * angles) * np.sqrt(2 / _SIDE)
    cosines[0] /= np.sqrt(2)
    rows = []
    for start, share in _INTERVALS:
        edges = (start + share * np.arange(_SIDE + 1) / _SIDE)[:, None] * length
        covered = np.minimum(right, edges[1:]) - np.maximum(left, edges[:-1])
        rows.append(cosines @ (covered.clip(0) * _SIDE / (share * length)))
    return np.concatenate(rows)


def without_border(grey: Grey) -> Grey:
    """The part inside a plain border; the very same array where there is none or nothing else."""
    height, width = grey.shape
    top, bottom = _plain(grey), _plain(grey[::-1])
    left, right = _plain(grey.T), _plain(grey.T[::-1])
    if not (top or bottom or left or right):
        return grey
    inside = grey[top : height - bottom, left : width - right]
    return inside if min(inside.shape) >= _SIDE // 2 else grey


def _plain(lines: Grey) -> int:
    """Lines of a border at the beginning: plain, and of the first one's shade."""
    most = int(len(lines) * _MOST_BORDER)
    rows = lines[: most + 1].astype(np.int16)
    differs = np.abs(rows - np.median(rows[0])).max(axis=1) > _TOLERANCE
    count = int(differs.argmax()) if differs.any() else len(rows)
    return count if max(1, _LEAST_BORDER * len(lines)) <= count <= most else 0


class Hashing(Step[bytes]):
    """`perceptual_hashes` of every image."""

    resident = False

    def prepare(self, data: bytes) -> bytes:
        """The hashes: all of the work is done in the threads."""
        return perceptual_hashes(data)

    def load(self) -> Callable[[Sequence[ItemRow], Sequence[bytes]], list[EngineResult]]:
        """Nothing is loaded."""
        return lambda _, prepared: list(prepared)
