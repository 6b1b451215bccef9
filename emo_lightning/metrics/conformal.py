"""Sets of emotions that hold the true one with a chosen probability: split conformal prediction.

Scores: `lac`, one minus the probability of the label (Sadinle, Lei, Wasserman 2019, arXiv:1609.00451), the smallest sets on
average; `aps`, the probability of all labels at least as probable (Romano, Sesia, Candès 2020, arXiv:2006.02544, without its
randomisation), sets that grow where the model is unsure. Coverage 1 - alpha is guaranteed on average over images that are
exchangeable with the calibration set, and for no others: elsewhere it has to be measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
from scipy.stats import binomtest

from emo_lightning.core.intervals import CONFIDENCE_LEVEL
from emo_lightning.core.records import EMOTIONS
from emo_lightning.metrics.arrays import Array, Classes, Flags

ConformalScore = Literal["lac", "aps"]


class EmotionCoverage(TypedDict):
    """Sets of the images of one emotion; None without an image."""

    images: int
    coverage: float | None
    """Percent."""
    size: float | None


class Coverage(TypedDict):
    """What sets are worth on labelled images."""

    images: int
    coverage: float
    """Percent of the sets that hold the true emotion."""
    low: float
    """Of the exact 95 % interval (Clopper–Pearson) of `coverage`, percent."""
    high: float
    size: float
    """Mean number of emotions in a set."""
    sizes: dict[str, int]
    """Number of emotions -> sets of it."""
    emotions: dict[str, EmotionCoverage]


@dataclass(frozen=True)
class Conformal:
    """A threshold on one kind of score.

    Args:
        score: `lac` or `aps`.
        alpha: share of sets that may miss.
        threshold: labels with a score up to it are in the set; infinite where there were too few images for alpha.
        images: that it was fitted on.
    """

    score: ConformalScore
    alpha: float
    threshold: float
    images: int

    @classmethod
    def fit(cls, predicted: Array, truth: Classes, alpha: float = 0.1, score: ConformalScore = "lac") -> Conformal:
        """From a calibration set that the model was not trained on.

        The threshold is the ceil((n + 1)(1 - alpha))-th smallest score; if that is beyond n, every set is the whole.

        Args:
            predicted: (N, C), rows sum to 1.
            truth: (N,) class indices.
            alpha: between 0 and 1.
            score: kind.

        Raises:
            ValueError: no image, shapes that do not fit, alpha not between 0 and 1, or an unknown score.
        """
        if not 0 < alpha < 1:
            msg = f"alpha is {alpha}; expected more than 0 and less than 1"
            raise ValueError(msg)
        if len(predicted) != len(truth) or not len(truth):
            msg = f"{len(predicted)} predictions and {len(truth)} labels; expected as many, and at least one"
            raise ValueError(msg)
        scores = np.sort(_scores(predicted, score)[np.arange(len(truth)), truth])
        rank = math.ceil((len(scores) + 1) * (1 - alpha) - 1e-9)
        threshold = float(scores[rank - 1]) if rank <= len(scores) else math.inf
        return cls(score, alpha, threshold, len(scores))

    def sets(self, predicted: Array) -> Flags:
        """(N, C) bool: the labels of each set. The most probable label is always in it, so that no set is empty."""
        inside = _scores(predicted, self.score) <= self.threshold + 1e-12
        inside[np.arange(len(predicted)), np.asarray(predicted).argmax(1)] = True
        return inside


def measured(sets: Flags, truth: Classes) -> Coverage:
    """Coverage and size of sets.

    Args:
        sets: (N, 8) bool.
        truth: (N,) class indices.

    Raises:
        ValueError: no image.
    """
    if not len(truth):
        msg = "no labelled image to measure coverage on"
        raise ValueError(msg)
    hit = sets[np.arange(len(truth)), truth]
    interval = binomtest(int(hit.sum()), len(hit)).proportion_ci(CONFIDENCE_LEVEL)
    size = sets.sum(1)
    emotions: dict[str, EmotionCoverage] = {}
    for emotion in EMOTIONS:
        own = truth == emotion.position
        emotions[str(emotion)] = {
            "images": int(own.sum()),
            "coverage": 100 * float(hit[own].mean()) if own.any() else None,
            "size": float(size[own].mean()) if own.any() else None,
        }
    return {
        "images": len(truth),
        "coverage": 100 * float(hit.mean()),
        "low": 100 * interval.low,
        "high": 100 * interval.high,
        "size": float(size.mean()),
        "sizes": {str(n): int((size == n).sum()) for n in range(1, sets.shape[1] + 1)},
        "emotions": emotions,
    }


def _scores(predicted: Array, score: ConformalScore) -> Array:
    p = np.asarray(predicted, dtype=float)
    match score:
        case "lac":
            return 1 - p
        case "aps":
            # Of each label: the probability of all that are at least as probable, itself among them.
            mass: Array = (p[:, None, :] * (p[:, None, :] >= p[:, :, None])).sum(2)
            return mass
        case _:
            msg = f"conformal score {score!r}; allowed: lac, aps"
            raise ValueError(msg)
