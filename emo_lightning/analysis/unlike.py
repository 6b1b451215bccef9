"""How well a model tells images that are unlike its training images from those that are like them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

import numpy as np

from emo_lightning.core.intervals import wilson
from emo_lightning.metrics.arrays import Array
from emo_lightning.metrics.bootstrap import RESAMPLES, Estimate, draws, interval
from emo_lightning.metrics.calibration import weighted_auroc
from emo_lightning.models.spread import Spread


class Called(TypedDict):
    """Images of one set that are called unlike the training's."""

    images: int
    share: Estimate
    """Percent."""


class UnlikeRates(TypedDict):
    """JSON-ready."""

    train_images: int
    val_images: int
    false_alarms: float
    """Percent of images like the validation set's that are called unlike, at most."""
    threshold: float
    sets: dict[str, Called]
    """Sets of the run that nothing was fitted on."""
    others: Called | None
    """Of pictures that are known to be unlike, where some were given."""
    auroc: Estimate | None
    """Of telling them from the first of `sets`, x100."""
    against: str | None
    """That set."""


def measure_unlike(spread: Spread, scores: Mapping[str, Array], others: Array | None = None, seed: int = 0) -> UnlikeRates:
    """Measure a spread.

    Args:
        spread: fitted.
        scores: set -> scores of its images, that nothing was fitted on.
        others: scores of pictures that are known to be unlike the training's.
        seed: of the bootstrap.
    """
    against = next(iter(scores), None)
    return {
        "train_images": spread.train_images,
        "val_images": spread.val_images,
        "false_alarms": 100 * spread.false_alarms,
        "threshold": spread.threshold,
        "sets": {name: _called(found, spread.threshold) for name, found in scores.items()},
        "others": None if others is None else _called(others, spread.threshold),
        "auroc": None if others is None or against is None else told_apart(scores[against], others, seed),
        "against": None if others is None else against,
    }


def told_apart(like: Array, unlike: Array, seed: int = 0) -> Estimate:
    """AUROC x100 with its bootstrap interval: how often an unlike image has a higher score than one that is like.

    Args:
        like: scores of images like the training's, (N,).
        unlike: scores of others, (M,).
        seed: of the bootstrap.
    """
    scores = np.concatenate([like, unlike])
    truth = np.arange(len(scores)) >= len(like)
    weights = draws([f"{one}{n}" for n, one in enumerate(truth)], RESAMPLES, seed)
    with np.errstate(invalid="ignore"):
        found = 100 * weighted_auroc(scores, truth, np.column_stack([np.ones(len(scores)), weights]))
    low, high = interval(found[1:], min(len(like), len(unlike))) or (None, None)
    return {"value": float(found[0]), "low": low, "high": high}


def _called(scores: Array, threshold: float) -> Called:
    hits = int((scores > threshold).sum())
    low, high = wilson(hits, len(scores))
    share: Estimate = {"value": 100 * hits / len(scores), "low": 100 * low, "high": 100 * high}
    return {"images": len(scores), "share": share}
