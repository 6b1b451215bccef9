"""Scores of predicted boxes against true ones for many images at once; both modes of Table 5 (see `analysis.table5_rows.TABLE5_ROWS`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from emo_lightning.metrics import matching
from emo_lightning.metrics.arrays import Array
from emo_lightning.metrics.matching import IndexPair

IOU_THRESHOLD = 0.5
"""Strict F1: a matched pair is a hit from this IoU on."""

BOX_SCORES = ("iou_paper", "center_paper", "f1_paper", "iou_strict", "center_strict", "hits")
"""Columns of `box_scores`."""


_LARGE = 64
"""An image with more boxes is scored alone: in a batch all would be filled up to its number."""


def box_scores(predicted: Sequence[Array], truth: Sequence[Array]) -> Array:
    """(images, len(SCORES)); an image without predicted boxes scores 0 everywhere.

    Args:
        predicted: per image (P, 4), P may be 0.
        truth: per image (T, 4), T at least 1.
    """
    scores = np.zeros((len(truth), len(BOX_SCORES)))
    sizes = [(len(p), len(t)) for p, t in zip(predicted, truth, strict=True)]
    alone = [[i] for i, size in enumerate(sizes) if min(size) and max(size) > _LARGE]
    together = [i for i, size in enumerate(sizes) if min(size) and max(size) <= _LARGE]
    for group in [*alone, together] if together else alone:
        scores[group] = _group([predicted[i] for i in group], [truth[i] for i in group])
    return scores


def _group(boxes: Sequence[Array], truth: Sequence[Array]) -> Array:
    """Scores of images that each have boxes on both sides; the matrices of all are computed in one go."""
    sizes = np.array([(len(p), len(t)) for p, t in zip(boxes, truth, strict=True)])
    a, b = _padded(boxes), _padded(truth)
    iou, center, dice = (f(a, b) for f in (matching.iou_matrix, matching.center_matrix, matching.dice_matrix))
    scores = _best_pairs(iou, center, dice, sizes.max(axis=1))
    for i in np.flatnonzero(sizes.min(axis=1) > 1):
        rows, columns = sizes[i]
        scores[i] = _matched(*(m[i, :rows, :columns] for m in (iou, center, dice)))
    return scores


def _best_pairs(iou: Array, center: Array, dice: Array, slots: Array) -> Array:
    """Scores where one side has a single box, so that every matching is the best pair; (images, P, T) each."""
    # Padding is invalid and scores 0, as a real pair may: it never earns more than a real one.
    iou, center, dice = (m.reshape(len(m), -1) for m in (iou, center, dice))
    image, best = np.arange(len(iou)), iou.argmax(axis=1)
    best_iou, best_center, best_dice = iou[image, best], center.max(axis=1), dice[image, best]
    return np.stack(
        [best_iou, best_center, best_dice, best_iou / slots, best_center / slots, best_iou >= IOU_THRESHOLD], axis=1
    )


def _matched(iou: Array, center: Array, dice: Array) -> Array:
    """Scores of one image, (P, T) each."""
    by_iou, by_center = matching.greedy(iou), matching.greedy(center)
    best_iou, best_center = matching.hungarian(iou), matching.hungarian(center)
    slots = max(iou.shape)
    hits = sum(iou[pair] >= IOU_THRESHOLD for pair in best_iou)
    strict = (_total(iou, best_iou) / slots, _total(center, best_center) / slots, hits)
    return np.array([_mean(iou, by_iou), _mean(center, by_center), _mean(dice, by_iou), *strict])


def _padded(boxes: Sequence[Array]) -> Array:
    """(images, most boxes, 4), filled up with NaN."""
    out = np.full((len(boxes), max(map(len, boxes)), 4), np.nan)
    for row, own in zip(out, boxes, strict=True):
        row[: len(own)] = own
    return out


def _total(scores: Array, pairs: Sequence[IndexPair]) -> float:
    return float(sum(scores[pair] for pair in pairs))


def _mean(scores: Array, pairs: Sequence[IndexPair]) -> float:
    return _total(scores, pairs) / len(pairs) if pairs else 0.0
