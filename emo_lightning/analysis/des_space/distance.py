"""Affective distance (paper section 3.1.2: DES "enables … quantitative measurement of affective distance between images").

Over pairs of images, Spearman's rank correlation of the distance of their embeddings with the distance of what people felt: the
Jensen–Shannon distance (base 2, 0–1) of their emotion distributions, and the difference of their intensities. Pairs share images and
are not independent: p is Mantel's (the images of one side are permuted), and the interval is a bootstrap over images, in which the
ranks stay as they are and no image is paired with itself. For comparison: what a perfect knowledge of the category alone would
reach ("same emotion or not" in place of the embedding), and the correlation among pairs of one emotion, where the category tells
nothing.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from emo_lightning.analysis.des_space.inputs import DesSet, DistanceMetric, pair_distances
from emo_lightning.analysis.mds import stratified_sample
from emo_lightning.core.intervals import CONFIDENCE_LEVEL

Matrix = NDArray[np.float64]

MIN_IMAGES_FOR_CORRELATION = 4
"""Images below which a rank correlation of distances says nothing."""


class Correlation(TypedDict):
    """Rank correlation of embedding distance with one affective distance, over pairs of images."""

    images: int
    pairs: int
    rho: float
    low: float
    high: float
    p: float
    """Mantel's."""
    category_rho: float | None
    """What the category alone would reach."""
    within_emotion_rho: float | None
    within_emotion_pairs: int
    bins: list[list[float]]
    """[mean affective distance, mean embedding distance over the mean of all pairs], by deciles."""
    one_hot: NotRequired[float]
    """Share of the distributions that are a single category; of distributions alone."""


class Uncorrelated(TypedDict):
    """Why there is no correlation."""

    images: int
    reason: str
    one_hot: NotRequired[float]


class AffectiveDistance(TypedDict):
    """One arm."""

    images: int
    metric: DistanceMetric
    distribution: Correlation | Uncorrelated
    intensity: Correlation | Uncorrelated


def affective_distance(
    found: DesSet,
    metric: DistanceMetric = "cosine",
    max_images: int = 1000,
    permutations: int = 499,
    resamples: int = 1000,
    seed: int = 0,
) -> AffectiveDistance:
    """Rank correlation of embedding distance with affective distance.

    Args:
        found: one arm's embeddings.
        metric: of the embedding.
        max_images: sample, seeded and in proportion to the emotions: pairs grow with its square.
        permutations: of Mantel's test; the smallest p is 1 / (permutations + 1).
        resamples: of the bootstrap.
        seed: of sample, permutations and bootstrap.
    """
    given = found.distributions
    labelled = np.flatnonzero(np.isfinite(given).all(axis=1))
    chosen = _sample(found, labelled, max_images, seed)
    affect = _jensen_shannon(given[chosen])
    distribution = _part(found, chosen, affect, metric, permutations, resamples, seed, "emotion_scores")
    if len(chosen):
        distribution["one_hot"] = float((given[chosen].max(axis=1) > 1 - 1e-6).mean())
    felt = found.intensities
    chosen = _sample(found, np.flatnonzero(np.isfinite(felt)), max_images, seed)
    affect = abs(felt[chosen][:, None] - felt[chosen][None])
    intensity = _part(found, chosen, affect, metric, permutations, resamples, seed, "intensity")
    return {"images": len(found), "metric": metric, "distribution": distribution, "intensity": intensity}


def _sample(found: DesSet, rows: NDArray[np.intp], size: int, seed: int) -> NDArray[np.intp]:
    return rows[stratified_sample([found.emotions[i] or "" for i in rows], size, seed)] if len(rows) else rows


def _jensen_shannon(rows: Matrix) -> Matrix:
    from scipy.spatial.distance import pdist, squareform

    if len(rows) < 2:
        return np.zeros((len(rows), len(rows)))
    # scipy takes the natural logarithm: the square root of log 2 makes it base 2, and rounding may leave a tiny NaN for equal rows.
    distances: Matrix = squareform(np.nan_to_num(pdist(rows, "jensenshannon")) / np.sqrt(np.log(2)))
    return distances


def _part(
    found: DesSet,
    rows: NDArray[np.intp],
    affect: Matrix,
    metric: DistanceMetric,
    permutations: int,
    resamples: int,
    seed: int,
    key: str,
) -> Correlation | Uncorrelated:
    if len(rows) < MIN_IMAGES_FOR_CORRELATION:
        return {
            "images": len(rows),
            "reason": f"{len(rows)} of {len(found)} images have {key!r}; expected at least {MIN_IMAGES_FOR_CORRELATION}",
        }
    upper = np.triu_indices(len(rows), 1)
    if not np.ptp(affect[upper]):
        return {
            "images": len(rows),
            "reason": f"{key!r} is equally far between all {len(rows)} images; there is nothing to rank",
        }
    distances = pair_distances(found.vectors[rows], metric)
    if np.ptp(distances[upper]) <= 1e-12:
        return {"images": len(rows), "reason": f"all {len(rows)} embeddings are equally far from each other"}
    emotions = np.array([found.emotions[i] or "" for i in rows])
    other = (emotions[:, None] != emotions[None]).astype(np.float64)
    x, y = _ranks(distances, upper), _ranks(affect, upper)
    rng = np.random.default_rng(seed)
    rho = _correlation(x[upper], y[upper])
    low, high = _interval(x, y, resamples, rng)
    within = other[upper] == 0
    return {
        "images": len(rows),
        "pairs": len(upper[0]),
        "rho": rho,
        "low": low,
        "high": high,
        "p": _mantel(x, y, upper, rho, permutations, rng),
        "category_rho": _spearman(other[upper], affect[upper]),
        "within_emotion_rho": _spearman(distances[upper][within], affect[upper][within]),
        "within_emotion_pairs": int(within.sum()),
        "bins": _bins(distances[upper], affect[upper]),
    }


def _ranks(matrix: Matrix, upper: tuple[NDArray[np.intp], ...]) -> Matrix:
    """Mean ranks of the pairs as a symmetric matrix with an empty diagonal."""
    from scipy.stats import rankdata

    ranks = np.zeros_like(matrix)
    ranks[upper] = rankdata(matrix[upper])
    return ranks + ranks.T


def _correlation(x: Matrix, y: Matrix) -> float:
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))


def _spearman(x: Matrix, y: Matrix) -> float | None:
    from scipy.stats import rankdata

    if len(x) < MIN_IMAGES_FOR_CORRELATION or not np.ptp(x) or not np.ptp(y):
        return None
    return _correlation(rankdata(x), rankdata(y))


def _mantel(
    x: Matrix, y: Matrix, upper: tuple[NDArray[np.intp], ...], rho: float, permutations: int, rng: np.random.Generator
) -> float:
    """Two-sided."""
    target = y[upper] - y[upper].mean()
    centred = x - x[upper].mean()
    scale = np.sqrt((centred[upper] ** 2).sum() * (target**2).sum())
    extreme = 0
    for _ in range(permutations):
        order = rng.permutation(len(x))
        extreme += abs(float(centred[np.ix_(order, order)][upper] @ target) / scale) >= abs(rho) - 1e-12
    return (1 + extreme) / (1 + permutations)


def _interval(x: Matrix, y: Matrix, resamples: int, rng: np.random.Generator) -> tuple[float, float]:
    """95 % percentile interval: pairs weigh as often as both their images are drawn."""
    size = len(x)
    off = ~np.eye(size, dtype=bool)
    x, y = (x - x[off].mean()) / x[off].std(), (y - y[off].mean()) / y[off].std()
    terms = [np.where(off, m, 0) for m in (np.ones_like(x), x, y, x * y, x * x, y * y)]
    values = []
    for start in range(0, resamples, 250):
        drawn = rng.multinomial(size, np.full(size, 1 / size), size=min(250, resamples - start)).astype(np.float64)
        n, sx, sy, sxy, sxx, syy = (((drawn @ m) * drawn).sum(axis=1) for m in terms)
        with np.errstate(invalid="ignore", divide="ignore"):
            values.append((sxy - sx * sy / n) / np.sqrt((sxx - sx**2 / n) * (syy - sy**2 / n)))
    tail = (100 - 100 * CONFIDENCE_LEVEL) / 2
    low, high = np.nanpercentile(np.concatenate(values), (tail, 100 - tail))
    return float(low), float(high)


def _bins(distances: Matrix, affect: Matrix, count: int = 10) -> list[list[float]]:
    """Deciles of the affective distance: [its mean, the mean embedding distance over the mean of all pairs]."""
    order = np.argsort(affect, kind="stable")
    mean = float(distances.mean())
    return [
        [float(affect[part].mean()), float(distances[part].mean() / mean)] for part in np.array_split(order, count) if len(part)
    ]
