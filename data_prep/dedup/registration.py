"""Whether one image shows a part of another: the part is fitted to the pixels, and what is left of them has to agree.

Forward-additive Gauss-Newton for place, size, gain and bias (Lucas and Kanade 1981; Baker and Matthews 2004, section 2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_prep.dedup.phash import inside_of
from data_prep.engine import EngineResult, ItemRow, Step

THUMBNAIL_METHOD = "grey40-1"
"""Name of the thumbnails in the ledger: to be changed whenever they come out differently."""

Floats = NDArray[np.float64]

_SIDE = 40
_POINTS = 32
_CENTRES = (np.arange(_POINTS) + 0.5) / _POINTS
_STEPS = 10
_DONE = 0.1 / _SIDE
"""Share of a side by which the last step moved a part that has found its place."""
_LEAST = 0.7
"""Share of a side below which a part has run away."""
_OUTSIDE = 0.05
"""Share of a side by which a part may stand out of the image."""


def thumbnail(data: bytes) -> bytes:
    """(40, 40) uint8 luminance of what an encoded image shows inside its border, row by row."""
    return Image.fromarray(inside_of(data)).resize((_SIDE, _SIDE), Image.Resampling.BOX).tobytes()


def correlations(wholes: Sequence[bytes], parts: Sequence[bytes], starts: Floats, mirrored: NDArray[np.bool_]) -> Floats:
    """How well each part agrees with its place in its whole once that is found: (pairs,), −1 to 1.

    It is the lesser of the correlation of the grey levels and that of their gradients: the first alone is high between any two images
    that are light at the same end.

    Args:
        wholes: thumbnails.
        parts: thumbnails of what may be a part.
        starts: (pairs, 4) about where: left, top, width and height as shares of the sides.
        mirrored: (pairs,) bool, whether the part is mirrored.
    """
    moving, target = _standardised(wholes), _standardised(parts)
    target = np.where(mirrored[:, None, None], target[:, :, ::-1], target)
    target = _sampled(target, np.tile([0.0, 0.0, 1.0, 1.0], (len(target), 1)))
    down, right = (slope * _SIDE for slope in _gradients(moving))
    place, active = starts.astype(np.float64), np.arange(len(starts))
    gain = np.ones(len(starts))
    best = _agreement(_sampled(moving, place), target)
    for _ in range(_STEPS):
        step, gain[active] = _step(moving[active], right[active], down[active], target[active], place[active], gain[active])
        place[active] += step
        plausible = _plausible(place[active])
        active, moved = active[plausible], np.abs(step).max(1)[plausible]
        if not len(active):
            break
        best[active] = np.maximum(best[active], _agreement(_sampled(moving[active], place[active]), target[active]))
        active = active[moved > _DONE]
        if not len(active):
            break
    return best


def _step(moving: Floats, right: Floats, down: Floats, target: Floats, place: Floats, gain: Floats) -> tuple[Floats, Floats]:
    """(pairs, 4) by which the places move, and (pairs,) the gain there: least squares of `target` − gain · moving − bias."""
    values = _sampled(moving, place)
    x, y = (_sampled(slope, place) * gain[:, None, None] for slope in (right, down))
    columns = [x, y, x * _CENTRES, y * _CENTRES[:, None], values, np.ones_like(values)]
    jacobian = np.stack([column.reshape(len(column), -1) for column in columns], axis=1)
    normal = jacobian @ jacobian.transpose(0, 2, 1)
    # A thumbnail without slopes in one direction leaves that one undetermined: it stays where it is.
    normal += 1e-6 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(len(columns))
    solution = np.linalg.solve(normal, jacobian @ target.reshape(len(target), -1, 1))[:, :, 0].astype(np.float64, copy=False)
    return solution[:, :4], solution[:, 4]


def _standardised(thumbnails: Sequence[bytes]) -> Floats:
    pixels = np.frombuffer(b"".join(thumbnails), np.uint8).reshape(-1, _SIDE, _SIDE).astype(np.float64)
    pixels -= pixels.mean((1, 2), keepdims=True)
    scaled: Floats = pixels / np.maximum(1e-9, pixels.std((1, 2), keepdims=True))
    return scaled


def _plausible(place: Floats) -> NDArray[np.bool_]:
    corner, size = place[:, :2], place[:, 2:]
    inside = (corner.min(1) >= -_OUTSIDE) & ((corner + size).max(1) <= 1 + _OUTSIDE)
    found: NDArray[np.bool_] = inside & (size.min(1) >= _LEAST)
    return found


def _sampled(images: Floats, place: Floats) -> Floats:
    """(pairs, 32, 32) values of a part of each image, between the pixels bilinearly."""
    rows = _along(images, place[:, 1], place[:, 3])
    return _along(rows.transpose(0, 2, 1), place[:, 0], place[:, 2]).transpose(0, 2, 1)


def _along(images: Floats, start: Floats, length: Floats) -> Floats:
    at = np.clip((start[:, None] + length[:, None] * _CENTRES) * _SIDE - 0.5, 0, _SIDE - 1)
    below = np.minimum(at.astype(np.intp), _SIDE - 2)
    share = (at - below)[:, :, None]
    number = np.arange(len(images))[:, None]
    between: Floats = images[number, below] * (1 - share) + images[number, below + 1] * share
    return between


def _gradients(images: Floats) -> list[Floats]:
    """Slopes down and to the right, by pixel."""
    found: list[Floats] = list(np.gradient(images, axis=(1, 2)))
    return found


def _agreement(first: Floats, second: Floats) -> Floats:
    def slopes(images: Floats) -> Floats:
        return np.stack(_gradients(images), axis=1).reshape(len(images), -1)

    def levels(images: Floats) -> Floats:
        flat = images.reshape(len(images), -1)
        centred: Floats = flat - flat.mean(1, keepdims=True)
        return centred

    return np.minimum(_cosine(levels(first), levels(second)), _cosine(slopes(first), slopes(second)))


def _cosine(a: Floats, b: Floats) -> Floats:
    found: Floats = (a * b).sum(1) / np.maximum(1e-9, np.sqrt((a * a).sum(1) * (b * b).sum(1)))
    return found


class Thumbnails(Step[bytes]):
    """`thumbnail` of every image."""

    resident = False

    def prepare(self, data: bytes) -> bytes:
        """The thumbnail: all of the work is done in the threads."""
        return thumbnail(data)

    def load(self) -> Callable[[Sequence[ItemRow], Sequence[bytes]], list[EngineResult]]:
        """Nothing is loaded."""
        return lambda _, prepared: list(prepared)
