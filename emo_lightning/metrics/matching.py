"""Scores between two sets of boxes and one-to-one matchings of them. Pure numpy and scipy.

Boxes are `(x1, y1, x2, y2)` in pixels. A predicted box may be empty, turned or not finite: its scores are 0. What gives a matrix for
(N, 4) and (M, 4) gives one for each image of a batch, (…, N, 4) and (…, M, 4).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from emo_lightning.metrics.arrays import Array, Flags

IndexPair = tuple[int, int]


def as_boxes(boxes: Sequence[Sequence[float]] | Array) -> Array:
    """To float64 of shape (N, 4), N may be 0.

    Raises:
        ValueError: a row has not four numbers.
    """
    array = np.asarray(boxes, dtype=np.float64)
    if array.size == 0:
        return np.zeros((0, 4))
    if array.ndim != 2 or array.shape[1] != 4:
        msg = f"boxes have shape {array.shape}; expected (N, 4)"
        raise ValueError(msg)
    return array


def valid(boxes: Array) -> Flags:
    """Shape (…, N): finite, x1 < x2 and y1 < y2."""
    finite = np.isfinite(boxes).all(axis=-1)
    return finite & (boxes[..., 0] < boxes[..., 2]) & (boxes[..., 1] < boxes[..., 3])


def _safe(boxes: Array) -> Array:
    """Invalid boxes as four zeros."""
    return np.where(valid(boxes)[..., None], boxes, 0.0)


def _pairs(a: Array, b: Array, corner: slice) -> tuple[Array, Array]:
    """One corner of every a beside one of every b, ready to broadcast to (…, N, M, 2)."""
    return a[..., :, None, corner], b[..., None, :, corner]


_LOW, _HIGH = slice(0, 2), slice(2, 4)


def area(boxes: Array) -> Array:
    """Shape (…, N), pixels²; an invalid box has 0."""
    safe = _safe(boxes)
    return (safe[..., 2] - safe[..., 0]) * (safe[..., 3] - safe[..., 1])


def intersection(a: Array, b: Array) -> Array:
    """Areas of overlap, shape (…, N, M), pixels²; 0 where a box is invalid."""
    a_safe, b_safe = _safe(a), _safe(b)
    sides = np.clip(np.minimum(*_pairs(a_safe, b_safe, _HIGH)) - np.maximum(*_pairs(a_safe, b_safe, _LOW)), 0, None)
    areas: Array = sides[..., 0] * sides[..., 1]
    return areas


def iou_matrix(a: Array, b: Array) -> Array:
    """Intersection over union, shape (…, N, M), 0–1."""
    inter = intersection(a, b)
    union = area(a)[..., :, None] + area(b)[..., None, :] - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)


def dice_matrix(a: Array, b: Array) -> Array:
    """F1 of area precision (overlap / area of a) and area recall (overlap / area of b), shape (…, N, M), 0–1."""
    inter = intersection(a, b)
    total = area(a)[..., :, None] + area(b)[..., None, :]
    return np.divide(2 * inter, total, out=np.zeros_like(inter), where=total > 0)


def center_matrix(a: Array, b: Array) -> Array:
    """1 − distance of centres / diagonal of the smallest box around both, shape (…, N, M), 0–1; 0 where a box is invalid."""
    ok = valid(a)[..., :, None] & valid(b)[..., None, :]
    a_safe, b_safe = _safe(a), _safe(b)
    middle_a, middle_b = ((x[..., :2] + x[..., 2:]) / 2 for x in (a_safe, b_safe))
    apart = middle_a[..., :, None, :] - middle_b[..., None, :, :]
    around = np.maximum(*_pairs(a_safe, b_safe, _HIGH)) - np.minimum(*_pairs(a_safe, b_safe, _LOW))
    distance, diagonal = np.hypot(apart[..., 0], apart[..., 1]), np.hypot(around[..., 0], around[..., 1])
    return np.where(ok, 1 - np.divide(distance, diagonal, out=np.ones_like(distance), where=diagonal > 0), 0.0)


def greedy(scores: Array) -> list[IndexPair]:
    """One-to-one pairs, best score first; pairs with score 0 are not matched. Ties: lower row, then lower column.

    Args:
        scores: shape (N, M).
    """
    rows, columns = scores.shape
    taken_rows, taken_columns = np.zeros(rows, bool), np.zeros(columns, bool)
    pairs: list[IndexPair] = []
    for flat in np.argsort(-scores, axis=None, kind="stable"):
        row, column = divmod(int(flat), columns)
        if scores[row, column] <= 0:
            break
        if not (taken_rows[row] or taken_columns[column]):
            taken_rows[row] = taken_columns[column] = True
            pairs.append((row, column))
    return pairs


def hungarian(scores: Array) -> list[IndexPair]:
    """The one-to-one matching with the largest sum of scores: min(N, M) pairs, some perhaps with score 0.

    Args:
        scores: shape (N, M).
    """
    rows, columns = linear_sum_assignment(scores, maximize=True)
    return [(int(r), int(c)) for r, c in zip(rows, columns, strict=True)]
