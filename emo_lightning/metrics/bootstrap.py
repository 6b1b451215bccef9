"""Intervals and paired differences by the Poisson bootstrap over images.

In each resample an image counts as often as a Poisson(1) draw says (Chamandy et al. 2012, "Estimating Uncertainty for Massive Data
Streams"). The draws of an image follow from the seed and its id alone. So sums over resamples add up over ranks in any sharding and
order, and two models that are scored on the same images meet the same resamples, which is what pairs them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from emo_lightning.core.intervals import CONFIDENCE_LEVEL
from emo_lightning.metrics.arrays import Array

RESAMPLES = 1000
MIN_IMAGES_FOR_INTERVAL = 2
"""Images below which there is no interval: one image says nothing of others."""

MIN_IMAGES_FOR_SOUND_INTERVAL = 10
"""Images below which a percentile interval is clearly too narrow, and has to be called so."""

_STEPS = 2**16

_TIE = 1e-9
"""Values (x100) that differ by less are equal: rounding of sums is far below, a difference that means anything far above."""


class Estimate(TypedDict):
    """A value with the ends of its interval; None where there is none."""

    value: float | None
    low: float | None
    high: float | None


class Difference(TypedDict):
    """Two values compared on the same images."""

    difference: float
    interval: list[float] | None
    """[low, high]."""
    p: float | None
    """Two-sided."""


def _counts_by_level() -> NDArray[np.uint8]:
    """Poisson(1) by its inverse distribution function at the middle of each of 65,536 levels."""
    steps = np.arange(1, 16)
    distribution = np.cumsum(np.exp(-1.0) / np.concatenate([[1.0], np.cumprod(steps.astype(np.float64))]))
    return np.searchsorted(distribution, (np.arange(_STEPS) + 0.5) / _STEPS).astype(np.uint8)


_COUNTS = _counts_by_level()


def draws(ids: Sequence[str], resamples: int, seed: int) -> Array:
    """How often each image counts in each resample, (len(ids), resamples); equal for equal (id, seed) everywhere."""
    rows = [hashlib.shake_128(f"{seed}\0{identity}".encode()).digest(2 * resamples) for identity in ids]
    # Little-endian whatever the machine, so that values agree between machines.
    levels = np.frombuffer(b"".join(rows), dtype="<u2").reshape(len(ids), resamples)
    counts: Array = _COUNTS[levels].astype(np.float64)
    return counts


def interval(replicates: Array, images: int) -> list[float] | None:
    """Percentile interval at `CONFIDENCE_LEVEL`, `[low, high]`.

    Args:
        replicates: (resamples,), NaN where a resample holds nothing to score.
        images: behind the value.

    Returns:
        None where there are no resamples or fewer than `MIN_IMAGES_FOR_INTERVAL` images.
    """
    finite = replicates[np.isfinite(replicates)]
    if images < MIN_IMAGES_FOR_INTERVAL or not len(finite):
        return None
    low, high = np.quantile(finite, [(1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2])
    return [float(low), float(high)]


def resampled_means(values: Array, weights: Array) -> Array:
    """Mean in each resample, (resamples,); NaN where it holds no image.

    Args:
        values: (images,).
        weights: (images, resamples) of `draws`.
    """
    with np.errstate(invalid="ignore"):
        means: Array = (values @ weights) / weights.sum(0)
    return means


def mean_estimate(values: Array, weights: Array) -> Estimate:
    """Mean over images with its interval.

    Args:
        values: (images,), one at least.
        weights: (images, resamples) of `draws`.
    """
    low, high = interval(resampled_means(values, weights), len(values)) or (None, None)
    return {"value": float(values.mean()), "low": low, "high": high}


def difference(a: float, b: float, replicates: tuple[Array, Array], images: int) -> Difference:
    """`a − b` over the same images: `difference`, its `interval`, and `p`.

    Args:
        a: the first value.
        b: the second, which is subtracted.
        replicates: of both, from the same resamples.
        images: behind the values.

    Returns:
        `p` is two-sided: twice the smaller share of resamples on either side of no difference, (count + 1) / (resamples + 1), at
        most 1; None like the interval.
    """
    gaps = replicates[0] - replicates[1]
    gaps = gaps[np.isfinite(gaps)]
    bounds = interval(gaps, images)
    p = None
    if bounds is not None:
        # A tie stays a tie in whatever order the sums were added up.
        tail = min(int((gaps <= _TIE).sum()), int((gaps >= -_TIE).sum()))
        p = min(1.0, 2 * (tail + 1) / (len(gaps) + 1))
    return {"difference": a - b, "interval": bounds, "p": p}
