"""Scores of many images at once against each image alone, scored by its definition."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from emo_lightning.metrics.boxes import _LARGE, box_scores


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Of two valid boxes."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    inter = float(np.prod(np.clip(high - low, 0, None)))
    return inter / (float(np.prod(a[2:] - a[:2])) + float(np.prod(b[2:] - b[:2])) - inter)


def boxes(rng: np.random.Generator, n: int) -> np.ndarray:
    """(n, 4), valid."""
    corner = rng.uniform(0, 60, (n, 2))
    return np.concatenate([corner, corner + rng.uniform(5, 60, (n, 2))], axis=1)


def test_strict_iou_and_hits_equal_the_best_assignment_tried_by_hand() -> None:
    rng = np.random.default_rng(0)
    sizes = [(int(p), int(t)) for p, t in rng.integers(1, 4, (60, 2))]
    said, truth = ([boxes(rng, size[side]) for size in sizes] for side in (0, 1))
    got = box_scores(said, truth)
    for i, (p, t) in enumerate(sizes):
        matrix = np.array([[iou(a, b) for b in truth[i]] for a in said[i]])
        few, many = (matrix, matrix.T)[p > t], max(p, t)
        best = max(sum(few[r, c] for r, c in enumerate(columns)) for columns in itertools.permutations(range(many), len(few)))
        assert got[i, 3] == pytest.approx(best / many)
        if min(p, t) == 1:
            assert got[i, 0] == pytest.approx(matrix.max())
            assert got[i, 5] == (matrix.max() >= 0.5)


def test_what_else_is_in_the_batch_does_not_matter() -> None:
    """Empty, turned and non-finite boxes, one image with very many, all beside each other."""
    rng = np.random.default_rng(1)
    said = [
        np.zeros((0, 4)),
        boxes(rng, 1),
        np.array([[5.0, 5, 1, 1]]),
        np.array([[np.nan, 0, 1, 1], [0, 0, 30, 30]]),
        boxes(rng, 3),
    ]
    said.append(boxes(rng, _LARGE + 5))
    truth = [boxes(rng, n) for n in (1, 2, 1, 2, 2, 3)]
    together = box_scores(said, truth)
    for i in range(len(said)):
        assert box_scores([said[i]], [truth[i]])[0] == pytest.approx(together[i], abs=1e-12)
    assert not together[0].any()
    assert not together[2].any()
    assert np.isfinite(together).all()
