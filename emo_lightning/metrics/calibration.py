"""Whether a probability means what it says: ECE, Brier, log loss, AUROC of confidence, reliability, and temperature scaling.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017 (arXiv:1706.04599): expected calibration error over bins of equal
width, and one temperature, fitted on validation by maximum likelihood, that divides all logits. Log-probabilities serve as logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from torchmetrics.functional.classification import binary_auroc

from emo_lightning.core.errors import InputError
from emo_lightning.metrics.arrays import Array, Classes, Flags
from emo_lightning.metrics.bootstrap import RESAMPLES, Estimate, draws, interval

CALIBRATION_BINS = 15
"""Of the calibration error and of the reliability diagram, as in Guo et al."""

PROBABILITY_FLOOR = 1e-12
"""Smallest probability whose logarithm is taken."""

TEMPERATURES = (0.05, 20.0)
"""Between these the temperature is sought."""


class TemperatureError(InputError):
    """No temperature can be fitted on these images."""


class Bin(TypedDict):
    """One bin of a reliability diagram; all in percent but the count."""

    low: float
    high: float
    count: int
    confidence: float
    """Mean over its images."""
    accuracy: float


def calibration_scores(predicted: Array, truth: Classes, bins: int = CALIBRATION_BINS) -> dict[str, float | None]:
    """Scores of one set.

    Args:
        predicted: (N, C), rows sum to 1.
        truth: (N,) class indices.
        bins: of equal width over the confidence, which is the largest probability.

    Returns:
        `accuracy`, `confidence` (mean), `ece` and `auroc` in percent; `brier` (sum over the classes of the squared error, 0–2,
        mean over the images) and `nll` (nats). `auroc` is that of telling right answers from wrong ones by the confidence; None
        where all answers are right or all are wrong.

    Raises:
        ValueError: shapes that do not fit, or no image.
    """
    p, y = _checked(predicted, truth)
    confidence, right = p.max(1), p.argmax(1) == y
    auroc = None
    if 0 < right.sum() < len(right):
        auroc = 100 * binary_auroc(torch.from_numpy(confidence), torch.from_numpy(right.astype(int))).item()
    # By the same bins as its interval and the diagram; torchmetrics puts a confidence on an edge into the bin above.
    gaps = np.bincount(_bin_of(confidence, bins), weights=confidence - right, minlength=bins)
    return {
        "accuracy": 100 * float(right.mean()),
        "confidence": 100 * float(confidence.mean()),
        "ece": 100 * float(abs(gaps).sum()) / len(y),
        "brier": float(((p - np.eye(p.shape[1])[y]) ** 2).sum(1).mean()),
        "nll": float(-np.log(np.maximum(p[np.arange(len(y)), y], PROBABILITY_FLOOR)).mean()),
        "auroc": auroc,
    }


def with_intervals(
    ids: Sequence[str], predicted: Array, truth: Classes, bins: int = CALIBRATION_BINS, seed: int = 0
) -> dict[str, Estimate]:
    """`calibration_scores` with 95 % intervals of the bootstrap over images (`bootstrap.draws`).

    Args:
        ids: N image ids, from which the resamples follow.
        predicted: (N, C), rows sum to 1.
        truth: (N,) class indices.
        bins: of the calibration error.
        seed: of the resamples.

    Returns:
        Key -> `value`, `low`, `high`; None where there is none (see `auroc`), and no interval from one image.
    """
    p, y = _checked(predicted, truth)
    replicates = _replicates(p, y, bins, draws(ids, RESAMPLES, seed))
    found: dict[str, Estimate] = {}
    for key, value in calibration_scores(p, y, bins).items():
        low, high = (interval(replicates[key], len(y)) if value is not None else None) or (None, None)
        found[key] = {"value": value, "low": low, "high": high}
    return found


def _replicates(p: Array, y: Classes, bins: int, weights: Array) -> dict[str, Array]:
    """`calibration_scores` of each resample, (R,) each; an image counts as often as `weights` (N, R) says."""
    confidence, right = p.max(1), p.argmax(1) == y
    total = weights.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):

        def mean(values: Array) -> Array:
            means: Array = (values @ weights) / total
            return means

        return {
            "accuracy": 100 * mean(right),
            "confidence": 100 * mean(confidence),
            "ece": confidence_error(confidence, right, weights, bins),
            "brier": mean(((p - np.eye(p.shape[1])[y]) ** 2).sum(1)),
            "nll": mean(-np.log(np.maximum(p[np.arange(len(y)), y], PROBABILITY_FLOOR))),
            "auroc": 100 * weighted_auroc(confidence, right, weights),
        }


def confidence_error(confidence: Array, right: Flags, weights: Array, bins: int = CALIBRATION_BINS) -> Array:
    """Expected calibration error in each resample, (R,), in percent; NaN where a resample is empty.

    Args:
        confidence: (N,), 0–1.
        right: (N,).
        weights: (N, R): how often each counts.
        bins: of equal width over the confidence, each with its upper end.
    """
    gaps = np.zeros((bins, len(confidence)))
    gaps[_bin_of(confidence, bins), np.arange(len(confidence))] = confidence - right
    with np.errstate(divide="ignore", invalid="ignore"):
        errors: Array = 100 * abs(gaps @ weights).sum(0) / weights.sum(0)
    return errors


def weighted_auroc(confidence: Array, right: Flags, weights: Array) -> Array:
    """Share of pairs (right, wrong) in which the right one is the surer; ties count half. NaN without a pair.

    Args:
        confidence: (N,), from 0 on; any score that may tell the two kinds apart.
        right: (N,).
        weights: (N, R): how often each counts in each of R resamples.

    Returns:
        (R,), 0–1.
    """
    order = np.argsort(confidence, kind="stable")
    starts = np.flatnonzero(np.diff(confidence[order], prepend=-1.0))
    kept = weights[order]
    surer = np.add.reduceat(kept * right[order][:, None], starts)
    wrong = np.add.reduceat(kept * ~right[order][:, None], starts)
    pairs = (surer * (wrong.cumsum(0) - wrong / 2)).sum(0)
    shares: Array = pairs / (surer.sum(0) * wrong.sum(0))
    return shares


def _bin_of(confidence: Array, bins: int) -> Classes:
    """Bin of each confidence: ]0, 1/bins], ]1/bins, 2/bins] and so on."""
    return np.clip(np.searchsorted(np.linspace(0, 1, bins + 1), confidence, side="left") - 1, 0, bins - 1)


def fit_temperature(predicted: Array, truth: Classes) -> float:
    """The temperature that minimises the log loss; above 1 where the model is too sure of itself.

    Raises:
        TemperatureError: all images are of one class, where the best temperature is one without meaning.
        ValueError: no image.
    """
    p, y = _checked(predicted, truth)
    if len(np.unique(y)) < 2:
        msg = f"all {len(y)} validation images are of one emotion: no temperature can be fitted"
        raise TemperatureError(msg)
    logits = np.log(np.maximum(p, PROBABILITY_FLOOR))

    def loss(log_temperature: float) -> float:
        return float(-log_softmax(logits / np.exp(log_temperature), axis=1)[np.arange(len(y)), y].mean())

    bounds = (np.log(TEMPERATURES[0]), np.log(TEMPERATURES[1]))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x))


def at_temperature(predicted: Array, temperature: float) -> Array:
    """(N, C) probabilities with their logarithms divided by the temperature; the order of the classes stays."""
    scaled: Array = softmax(np.log(np.maximum(predicted, PROBABILITY_FLOOR)) / temperature, axis=1)
    return scaled


def reliability(predicted: Array, truth: Classes, bins: int = CALIBRATION_BINS) -> list[Bin]:
    """The bins that hold an image, in order."""
    p, y = _checked(predicted, truth)
    confidence, right = p.max(1), p.argmax(1) == y
    place = _bin_of(confidence, bins)
    return [
        {
            "low": 100 * b / bins,
            "high": 100 * (b + 1) / bins,
            "count": int((place == b).sum()),
            "confidence": 100 * float(confidence[place == b].mean()),
            "accuracy": 100 * float(right[place == b].mean()),
        }
        for b in range(bins)
        if (place == b).any()
    ]


def _checked(predicted: Array, truth: Classes) -> tuple[Array, Classes]:
    p, y = np.asarray(predicted, dtype=float), np.asarray(truth)
    if p.ndim != 2 or y.shape != (len(p),) or not len(p):
        msg = f"predicted has shape {p.shape}, truth {y.shape}; expected (N, C) and (N,), N > 0"
        raise ValueError(msg)
    if not np.isfinite(p).all() or y.min() < 0 or y.max() >= p.shape[1]:
        msg = f"probabilities must be finite and classes from 0 to {p.shape[1] - 1}"
        raise ValueError(msg)
    return p, y
