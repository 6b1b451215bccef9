"""How far predicted distributions over the eight are from annotated ones: the measures of label distribution learning.

Geng, "Label Distribution Learning", IEEE TKDE 28(7), 2016 (arXiv:1408.6027), table 1: four distances, KL among them, and two
similarities; Jensen-Shannon beside them, as it is bounded and symmetric.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import rel_entr

from emo_lightning.metrics.arrays import Array

KL_FLOOR = 1e-6
"""Smallest predicted probability in KL, which is infinite at zero; predictions are floored and scaled to sum 1 for it alone."""


@dataclass(frozen=True)
class Measure:
    """A measure's name, as shown, and which way is better."""

    key: str
    title: str
    lower_is_better: bool


DISTRIBUTION_MEASURES = (
    Measure("kl", "KL", True),
    Measure("js", "JS", True),
    Measure("chebyshev", "Chebyshev", True),
    Measure("clark", "Clark", True),
    Measure("canberra", "Canberra", True),
    Measure("cosine", "Cosine", False),
    Measure("intersection", "Intersection", False),
)


def distribution_measures(predicted: Array, annotated: Array) -> dict[str, Array]:
    """All measures of each image.

    Args:
        predicted: (N, C), rows sum to 1.
        annotated: (N, C), likewise.

    Returns:
        For each key of `DISTRIBUTION_MEASURES` (N,): `kl` of annotated from predicted and `js`, in nats (js at most ln 2); `chebyshev` the
        largest difference; `clark` the root of the sum of squared (p-q)/(p+q), at most sqrt(C); `canberra` the sum of |p-q|/(p+q),
        at most C (0/0 counts 0 in both); `cosine` and `intersection` (sum of the smaller), 1 for equal ones.

    Raises:
        ValueError: shapes that differ, no row, or a row that is no distribution.
    """
    p, q = np.asarray(annotated, dtype=float), np.asarray(predicted, dtype=float)
    if p.shape != q.shape or p.ndim != 2 or not len(p):
        msg = f"predicted has shape {q.shape}, annotated {p.shape}; expected the same (N, C), N > 0"
        raise ValueError(msg)
    for name, rows in (("predicted", q), ("annotated", p)):
        good = np.isfinite(rows).all(1) & (rows >= 0).all(1) & (abs(rows.sum(1) - 1) < 1e-2)
        if not good.all():
            at = int(np.flatnonzero(~good)[0])
            msg = f"{name}[{at}] is {rows[at].tolist()}; expected non-negative values that sum to 1"
            raise ValueError(msg)
    floored = np.maximum(q, KL_FLOOR)
    floored /= floored.sum(1, keepdims=True)
    middle = (p + q) / 2
    total = p + q
    share = np.divide(abs(p - q), total, out=np.zeros_like(p), where=total > 0)
    return {
        "kl": rel_entr(p, floored).sum(1),
        "js": (rel_entr(p, middle).sum(1) + rel_entr(q, middle).sum(1)) / 2,
        "chebyshev": abs(p - q).max(1),
        "clark": np.sqrt((share**2).sum(1)),
        "canberra": share.sum(1),
        "cosine": (p * q).sum(1) / (np.linalg.norm(p, axis=1) * np.linalg.norm(q, axis=1)),
        "intersection": np.minimum(p, q).sum(1),
    }
