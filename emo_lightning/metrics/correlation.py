"""Correlation of values and of ranks, plain and over resamples of a bootstrap."""

from __future__ import annotations

import numpy as np

from emo_lightning.metrics.arrays import Array


def pearson(x: Array, y: Array, weights: Array) -> Array:
    """Pearson's correlation (PLCC, without the curve that is fitted first in work on image quality) in each resample, (R,).

    Args:
        x: (N,).
        y: (N,).
        weights: (N, R): how often each pair counts.

    Returns:
        -1 to 1; NaN where a resample has one value alone.
    """
    return _correlation(np.broadcast_to(x[:, None], weights.shape), np.broadcast_to(y[:, None], weights.shape), weights)


def spearman(x: Array, y: Array, weights: Array) -> Array:
    """Spearman's correlation of ranks (SRCC) in each resample, (R,); ties have the mean of their ranks. Arguments as `pearson`."""
    return _correlation(_ranks(x, weights), _ranks(y, weights), weights)


def concordance(x: Array, y: Array, weights: Array) -> Array:
    """Lin's concordance (CCC; Lin 1989, "A concordance correlation coefficient to evaluate reproducibility") in each resample, (R,).

    2 cov(x, y) / (var x + var y + (mean x - mean y)^2): 1 only where both are equal, so that scale and offset count. Arguments as `pearson`.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        total = weights.sum(0)
        means = [(values[:, None] * weights).sum(0) / total for values in (x, y)]
        from_x, from_y = x[:, None] - means[0], y[:, None] - means[1]
        spread = ((from_x**2 + from_y**2) * weights).sum(0) / total + (means[0] - means[1]) ** 2
        found: Array = 2 * (from_x * from_y * weights).sum(0) / total / np.where(spread > 0, spread, np.nan)
    return found


def _correlation(x: Array, y: Array, weights: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        total = weights.sum(0)
        from_x = x - (x * weights).sum(0) / total
        from_y = y - (y * weights).sum(0) / total
        spreads = [_spread(x, from_x, weights), _spread(y, from_y, weights)]
        found: Array = (from_x * from_y * weights).sum(0) / np.sqrt(spreads[0] * spreads[1])
    return found


def _spread(values: Array, from_mean: Array, weights: Array) -> Array:
    """Sum of squares about the mean, (R,); NaN where it is no more than what rounding leaves of equal values."""
    spread = (from_mean**2 * weights).sum(0)
    return np.where(spread > 1e-24 * (values**2 * weights).sum(0), spread, np.nan)


def _ranks(values: Array, weights: Array) -> Array:
    """(N, R): the rank that each value has where every value counts as often as its weight says."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    new = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    starts, group = np.flatnonzero(new), np.cumsum(new) - 1
    held = np.add.reduceat(weights[order], starts)
    mean_ranks = held.cumsum(0) - held + (held + 1) / 2
    found = np.empty(weights.shape)
    found[order] = mean_ranks[group]
    return found
