"""Nearest neighbours by comparing all: what measurements of an embedding stand on, and what an approximate index is held against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sklearn.neighbors import NearestNeighbors


def exact_index(vectors: NDArray[np.floating], k: int, metric: Literal["cosine", "euclidean"]) -> NearestNeighbors:
    """What finds the k nearest of some vectors.

    Args:
        vectors: (N, D).
        k: how many, at most N.
        metric: cosine is 1 − cosine.
    """
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute").fit(vectors)


def recall(found: NDArray[np.integer], true: NDArray[np.integer]) -> float:
    """Mean share of the true neighbours that were found, 0–1.

    Args:
        found: (Q, k) rows that a search gave, in any order.
        true: (Q, k) rows that an exact search gives.
    """
    shares = [len(set(one) & set(other)) / len(other) for one, other in zip(found.tolist(), true.tolist(), strict=True)]
    return float(np.mean(shares))
