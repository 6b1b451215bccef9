"""The emotion cloud (paper Figure 6): DES in two dimensions by metric MDS, with values that say how much of it to believe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from emo_lightning.core.errors import InputError

NEIGHBOURS = 5
"""Images beside a point that a page shows."""


class MdsSummary(TypedDict):
    """How much of a map to believe; the fields of `MdsMap` of these names."""

    points: int
    stress: float
    silhouette_des: float | None
    silhouette_2d: float | None
    knn_purity_des: float
    knn_purity_2d: float
    k: int
    available: int


class MdsError(InputError):
    """These embeddings cannot be laid out."""


@dataclass(frozen=True)
class MdsMap:
    """A sample of embeddings laid out in two dimensions."""

    coords: NDArray[np.float64]
    """(N, 2), centred, in units of distance between embeddings."""
    labels: list[str]
    ids: list[str]
    stress: float
    """Stress-1: root of Σ(d − δ)² / Σδ² over pairs; 0 is a faithful picture."""
    silhouette_des: float | None
    """−1 to 1, in the embedding space; None with fewer than two labels."""
    silhouette_2d: float | None
    knn_purity_des: float
    """0–1: share of the k nearest neighbours (in the embedding space) that have the point's own label."""
    knn_purity_2d: float
    k: int
    available: int
    """Embeddings before the sample."""
    neighbours: NDArray[np.intp]
    """(N, at most `NEIGHBOURS`), positions in the sample: the nearest in the embedding space, the nearest first."""

    def summary(self) -> MdsSummary:
        """Everything but the points."""
        return {
            "points": len(self.ids),
            "stress": self.stress,
            "silhouette_des": self.silhouette_des,
            "silhouette_2d": self.silhouette_2d,
            "knn_purity_des": self.knn_purity_des,
            "knn_purity_2d": self.knn_purity_2d,
            "k": self.k,
            "available": self.available,
        }


def stratified_sample(labels: Sequence[str], size: int, seed: int) -> NDArray[np.intp]:
    """Positions of at most `size` items, sorted, each label with its share (largest remainders); a pure function.

    Raises:
        InputError: a size below 1, or a negative seed.
    """
    if size < 1 or seed < 0:
        msg = f"a sample of {size} images with seed {seed}; expected at least 1, and a seed from 0"
        raise InputError(msg)
    names = np.asarray(labels)
    if len(names) <= size:
        return np.arange(len(names))
    groups, counts = np.unique(names, return_counts=True)
    exact = counts * (size / len(names))
    take = np.floor(exact).astype(int)
    for i in np.argsort(-(exact - take), kind="stable")[: size - take.sum()]:
        take[i] += 1
    rng = np.random.default_rng(seed)
    chosen = [rng.choice(np.flatnonzero(names == g), n, replace=False) for g, n in zip(groups, take, strict=True)]
    return np.sort(np.concatenate(chosen))


def mds_map(
    vectors: NDArray[np.floating],
    labels: Sequence[str],
    ids: Sequence[str] | None = None,
    *,
    seed: int = 0,
    max_points: int = 2000,
    k: int = 10,
) -> MdsMap:
    """Lay a seeded, stratified sample out with SMACOF from a classical-MDS start.

    Args:
        vectors: (N, dim) embeddings; distances are Euclidean on them as they are.
        labels: N emotion names.
        ids: N names of the images; positions where None.
        seed: of the sample.
        max_points: MDS is quadratic in them.
        k: neighbours for the purity; fewer where there are fewer points.

    Raises:
        MdsError: fewer than three points, a value that is not finite, or all vectors equal.
        ValueError: shapes differ.
    """
    from sklearn.manifold import MDS
    from sklearn.metrics import pairwise_distances

    vectors = np.asarray(vectors, dtype=np.float64)
    names = [str(i) for i in range(len(labels))] if ids is None else list(ids)
    if vectors.ndim != 2 or not len(vectors) == len(labels) == len(names):
        msg = f"MDS: embeddings of shape {vectors.shape}, {len(labels)} labels, {len(names)} ids do not belong together"
        raise ValueError(msg)
    if len(vectors) < 3:
        msg = f"MDS: {len(vectors)} embeddings; expected at least 3"
        raise MdsError(msg)
    if not np.isfinite(vectors).all():
        first = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        msg = f"MDS: the embedding of {names[first]!r} holds a value that is not finite"
        raise MdsError(msg)
    chosen = stratified_sample(labels, max_points, seed)
    sample, kept = vectors[chosen], [labels[i] for i in chosen]
    target = pairwise_distances(sample)
    # Exactly 0 rather than the rounding noise of the expansion ‖a‖² + ‖b‖² − 2ab.
    target = (target + target.T) / 2
    np.fill_diagonal(target, 0)
    if not np.ptp(sample, axis=0).any():
        msg = "MDS: all embeddings are equal; there is nothing to lay out"
        raise MdsError(msg)
    # max_iter and eps: from a classical start SMACOF moves little; these settle the third digit of the stress.
    layout = MDS(
        2,
        metric="precomputed",
        init="classical_mds",
        n_init=1,
        max_iter=200,
        eps=1e-5,
        random_state=seed,
        normalized_stress=False,
    )
    coords = layout.fit_transform(target)
    drawn = pairwise_distances(coords)
    k = min(k, len(sample) - 1)
    return MdsMap(
        coords=coords - coords.mean(axis=0),
        labels=kept,
        ids=[names[i] for i in chosen],
        stress=float(np.sqrt(((drawn - target) ** 2).sum() / (target**2).sum())),
        silhouette_des=_silhouette(target, kept),
        silhouette_2d=_silhouette(drawn, kept),
        knn_purity_des=knn_purity(target, kept, k),
        knn_purity_2d=knn_purity(drawn, kept, k),
        k=k,
        available=len(vectors),
        neighbours=nearest(target, min(NEIGHBOURS, len(sample) - 1)),
    )


def turned_towards(layout: MdsMap, other: MdsMap) -> MdsMap:
    """The layout rotated and mirrored so that its images lie as near as may be to where another layout has the same ones.

    MDS knows distances alone: without this, two arms that agree may look like opposites. All values of merit stay what they are.

    Args:
        layout: of the same images, in the same order, as `other`.
        other: is left as it is.
    """
    from scipy.linalg import orthogonal_procrustes

    turn, _ = orthogonal_procrustes(layout.coords, other.coords)
    return replace(layout, coords=layout.coords @ turn)


def knn_purity(distances: NDArray[np.float64], labels: Sequence[str], k: int) -> float:
    """Mean share of each point's k nearest neighbours with its own label, 0–1.

    Args:
        distances: (N, N).
        labels: N names.
        k: neighbours, 1 to N − 1.
    """
    names = np.asarray(labels)
    return float((names[nearest(distances, k)] == names[:, None]).mean())


def nearest(distances: NDArray[np.float64], k: int) -> NDArray[np.intp]:
    """The k nearest others of each point, (N, k), the nearest first.

    Args:
        distances: (N, N).
        k: 1 to N − 1.
    """
    others = distances.copy()
    np.fill_diagonal(others, np.inf)
    found: NDArray[np.intp] = np.argsort(others, axis=1, kind="stable")[:, :k]
    return found


def _silhouette(distances: NDArray[np.float64], labels: Sequence[str]) -> float | None:
    from sklearn.metrics import silhouette_score

    if not 2 <= len(set(labels)) < len(labels):
        return None
    exact = distances.copy()
    np.fill_diagonal(exact, 0)
    return float(silhouette_score(exact, labels, metric="precomputed"))
