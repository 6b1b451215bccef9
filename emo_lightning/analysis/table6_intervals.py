"""Intervals of one arm's values in Table 6: Wilson's for the accuracy, the bootstrap over images for what is macro-averaged."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from emo_lightning.analysis.probe_predictions import ArmPredictions
from emo_lightning.core.intervals import wilson
from emo_lightning.core.records import EMOTIONS
from emo_lightning.metrics.bootstrap import RESAMPLES, Estimate, draws, interval

_CLASSES = len(EMOTIONS)


def table6_estimates(found: ArmPredictions, seed: int = 0) -> dict[str, Estimate]:
    """Accuracy, precision, recall and F1 of an arm with one seed, in percent.

    Args:
        found: what its probe says of one set.
        seed: of the bootstrap.

    Raises:
        ValueError: several seeds, or no image.
    """
    if len(found.predicted) != 1 or not len(found.truth):
        msg = f"{len(found.predicted)} seeds and {len(found.truth)} images; expected one seed and at least one image"
        raise ValueError(msg)
    images, right = len(found.truth), int(found.correct.sum())
    low, high = wilson(right, images)
    one_hot = np.eye(_CLASSES * _CLASSES)[found.truth * _CLASSES + found.predicted[0]]
    # (64, 1 + resamples): the images as they are, then as each resample draws them.
    weights = np.concatenate([np.ones((images, 1)), draws(found.ids, RESAMPLES, seed)], axis=1)
    macro = _macro((one_hot.T @ weights).reshape(_CLASSES, _CLASSES, -1))
    estimates: dict[str, Estimate] = {"accuracy": {"value": 100 * right / images, "low": 100 * low, "high": 100 * high}}
    for name, values in macro.items():
        ends = interval(values[1:], images) or (None, None)
        estimates[name] = {"value": float(values[0]), "low": ends[0], "high": ends[1]}
    return estimates


def _macro(counts: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Macro averages over the classes that occur, true or said, as torchmetrics counts them; in percent.

    Args:
        counts: (true, said, R).
    """
    hits, true, said = counts.diagonal().T, counts.sum(1), counts.sum(0)  # (8, R) each
    occurs = np.maximum((true + said > 0).sum(0), 1)

    def mean(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
        shares = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
        average: NDArray[np.float64] = 100 * shares.sum(0) / occurs
        return average

    return {"precision": mean(hits, said), "recall": mean(hits, true), "f1": mean(2 * hits, true + said)}
