"""Metrics as functions of how often each item counts, so that a value and its bootstrap interval are one computation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from emo_lightning.metrics.arrays import Array, Flags
from emo_lightning.metrics.bootstrap import Estimate, interval
from emo_lightning.metrics.calibration import confidence_error, weighted_auroc
from emo_lightning.metrics.correlation import pearson, spearman

Metric: TypeAlias = Callable[[Array], Array]
"""(N, R), how often each item counts in each resample -> (R,), NaN where a resample holds nothing to measure."""


def estimate(metric: Metric, weights: Array, images: int) -> Estimate:
    """Value and interval; no value where there is nothing to measure.

    Args:
        metric: of N items.
        weights: (N, R) of `bootstrap.draws`, by image: questions about one image come and go together.
        images: behind the value.
    """
    value = float(metric(np.ones((len(weights), 1)))[0])
    if not np.isfinite(value):
        return {"value": None, "low": None, "high": None}
    low, high = interval(metric(weights), images) or (None, None)
    return {"value": value, "low": low, "high": high}


def share(right: Flags, of: Flags) -> Metric:
    """Percent of the items `of` that are `right`, both (N,)."""
    return mean_of_items(100 * right.astype(np.float64), of)


def mean_of_items(values: Array, of: Flags) -> Metric:
    """Mean of (N,) over the items `of` (N,)."""
    counted, summed = of.astype(np.float64), np.where(of, values, 0.0)

    def metric(weights: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            found: Array = (summed @ weights) / (counted @ weights)
        return found

    return metric


def mean_of(metrics: Sequence[Metric]) -> Metric:
    """Unweighted mean of several metrics, whatever their numbers of items: a macro-mean."""
    return lambda weights: np.mean([metric(weights) for metric in metrics], axis=0)


def weighted_f1(truth: Sequence[str], said: Sequence[str], of: Flags) -> Metric:
    """F1 of each class, weighed by how many items are of it, in percent; scikit-learn's `average="weighted"`.

    Args:
        truth: N classes.
        said: N answers; one that is no class of the truth counts against the class of its item.
        of: (N,) the items that count.
    """
    true, answered = np.array(truth, dtype=object), np.array(said, dtype=object)
    classes = sorted(set(true[of]))
    # (3, classes, N): is of the class, was called so, both.
    held, named = (
        np.array([(labels == one) & of for one in classes], dtype=bool).reshape(-1, len(of)) for labels in (true, answered)
    )
    marks = np.concatenate([held, named, held & named]).astype(np.float64)

    def metric(weights: Array) -> Array:
        support, called, hits = (marks @ weights).reshape(3, len(classes), -1)
        with np.errstate(invalid="ignore", divide="ignore"):
            each = np.where(support > 0, support * 2 * hits / (support + called), 0.0)
            found: Array = 100 * each.sum(0) / (of.astype(np.float64) @ weights)
        return found

    return metric


def half_open_ece(confidence: Array, right: Flags, of: Flags, bins: int) -> Metric:
    """Expected calibration error over bins [low, high), in percent: a confidence of 1 falls in none of them, but is counted in the total.

    Args:
        confidence: (N,), as it was said; outside of 0–1 it falls in no bin either.
        right: (N,).
        of: (N,) the items that count.
        bins: of equal width.
    """
    edges = np.linspace(0, 1, bins + 1)
    place = np.searchsorted(edges, confidence, side="right") - 1
    gaps = np.zeros((bins, len(confidence)))
    inside = of & (place >= 0) & (place < bins)
    gaps[place[inside], np.flatnonzero(inside)] = (confidence - right)[inside]

    def metric(weights: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            found: Array = 100 * abs(gaps @ weights).sum(0) / (of.astype(np.float64) @ weights)
        return found

    return metric


def ece(confidence: Array, right: Flags, of: Flags, bins: int) -> Metric:
    """Expected calibration error as the project measures it everywhere (`calibration`), in percent; arguments as `half_open_ece`."""
    return lambda weights: confidence_error(confidence[of], right[of], weights[of], bins)


def brier(confidence: Array, right: Flags, of: Flags) -> Metric:
    """Mean squared difference between the confidence and being right, in percent; all (N,)."""
    return mean_of_items(100 * (confidence - right) ** 2, of)


def auroc(confidence: Array, right: Flags, of: Flags) -> Metric:
    """How well the confidence tells right from wrong answers, in percent; NaN where all are right or all are wrong."""

    def metric(weights: Array) -> Array:
        if not of.any():
            return np.full(weights.shape[1], np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            return 100 * weighted_auroc(confidence[of], right[of], weights[of])

    return metric


def correlation(x: Array, y: Array, of: Flags, *, ranks: bool) -> Metric:
    """SRCC (`ranks`) or PLCC of (N,) and (N,) over the items `of`; NaN of fewer than two."""

    def metric(weights: Array) -> Array:
        if of.sum() < 2:
            return np.full(weights.shape[1], np.nan)
        return (spearman if ranks else pearson)(x[of], y[of], weights[of])

    return metric
