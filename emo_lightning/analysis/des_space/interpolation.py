"""Interpolation between two images' embeddings (paper section 3.1.2: DES enables "smooth interpolation between emotions").

A straight line z(t) = (1 − t) a + t b proves nothing by itself: what a linear classifier says changes monotonically along every line.
So the path is read by real images: q(t) is the mean emotion distribution of the k images nearest to z(t), without the two ends.

    position  s(t) = ⟨q(t) − p_a, p_b − p_a⟩ / ‖p_b − p_a‖²   0 where the neighbours feel like the image a, 1 where they feel like b
    monotonicity M = (s(1) − s(0)) / Σ |s(t+1) − s(t)|        1: never backward; 0: as much back as forth; −1: always backward
    progress       = s(1) − s(0)                              how much of the way from a to b the neighbours go
    largest step   = max |s(t+1) − s(t)| / Σ |s(t+1) − s(t)|  1/(steps − 1) is the smoothest, 1 is a single jump

p_a, p_b are the ends' own distributions. A path on which the neighbours' mood never changes has no M; such paths are counted. Beside
every value stands what the same paths give when the moods are dealt to the images at random.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from emo_lightning.analysis.des_space.inputs import DesSet, DistanceMetric, mean_interval
from emo_lightning.core.errors import InputError
from emo_lightning.core.records import EMOTIONS
from emo_lightning.metrics.arrays import Array
from emo_lightning.metrics.neighbours import exact_index

MIN_SQUARED_DISTANCE = 0.05
"""Least ‖p_b − p_a‖²: between images of nearly the same mood a position means nothing."""


class PathMean(TypedDict):
    """A mean over paths with its 95 % interval, and the same where moods are dealt at random; None without a path that has it."""

    value: float | None
    low: float | None
    high: float | None
    chance: float | None


class Interpolation(TypedDict):
    """One arm."""

    images: int
    metric: DistanceMetric
    paths: int
    unmoved: int
    """Paths on which the neighbours' mood never changes."""
    too_alike: int
    """Paths that were not drawn, as their ends feel nearly the same."""
    soft: float
    """Share of the images with a distribution of their own."""
    steps: int
    k: int
    left_out: dict[str, int]
    monotonicity: PathMean
    progress: PathMean
    largest_step: PathMean
    pairs: dict[str, float]
    """"a-b" -> mean monotonicity."""
    mean_position: list[float]
    """s(t)."""


class NoPath(TypedDict):
    """Why no path can be drawn."""

    images: int
    reason: str


@dataclass(frozen=True)
class Path:
    """One path."""

    a: int
    """Row of the first image."""
    b: int
    """Row of the last."""
    nearest: NDArray[np.intp]
    """(steps,) the row nearest to each point."""
    moods: Array
    """(steps, 8) mean distribution of the neighbours."""
    position: Array
    """(steps,) s(t)."""

    @property
    def monotonicity(self) -> float | None:
        """−1 to 1; None where the position never changes."""
        moved = abs(np.diff(self.position)).sum()
        return float((self.position[-1] - self.position[0]) / moved) if moved > 1e-9 else None

    @property
    def progress(self) -> float:
        """How much of the way the neighbours go."""
        return float(self.position[-1] - self.position[0])

    @property
    def largest_step(self) -> float | None:
        """Share of the largest step in all movement; None where there is none."""
        steps = abs(np.diff(self.position))
        return float(steps.max() / steps.sum()) if steps.sum() > 1e-9 else None


def interpolation(
    found: DesSet, metric: DistanceMetric = "cosine", per_pair: int = 10, steps: int = 11, k: int = 10, seed: int = 0
) -> tuple[Interpolation | NoPath, list[Path]]:
    """Paths between images of different emotions.

    Args:
        found: one arm's embeddings; an image needs an emotion, and its distribution is `emotion_scores` or, without, the emotion alone.
        metric: by which neighbours are near; the path itself is straight.
        per_pair: paths for each of the up to 28 pairs of emotions, ends drawn at random.
        steps: points on a path, both ends among them.
        k: neighbours that read a point.
        seed: of the ends and of the random moods.

    Returns:
        What the paths say, or why there is none; and the paths.

    Raises:
        InputError: steps < 3, or per_pair or k < 1.
    """
    if steps < 3 or per_pair < 1 or k < 1:
        msg = f"steps={steps}, per_pair={per_pair}, k={k}; expected steps ≥ 3, per_pair ≥ 1, k ≥ 1"
        raise InputError(msg)
    found = found.take([i for i, e in enumerate(found.emotions) if e is not None], "without an emotion")
    emotions = found.emotions
    kinds = sorted({e for e in emotions if e is not None})
    if len(kinds) < 2 or len(found) < k + 2:
        return {
            "images": len(found),
            "reason": f"{len(found)} images with {len(kinds)} emotions ({', '.join(kinds) or 'none'}); expected at least two emotions "
            f"and k + 2 = {k + 2} images",
        }, []
    moods = np.array([record.emotion_distribution() for record in found.records], dtype=np.float64)
    rng = np.random.default_rng(seed)
    ends, too_alike = _ends(emotions, moods, per_pair, rng)
    if not ends:
        return {"images": len(found), "reason": f"all {too_alike} paths end in images of nearly the same mood"}, []
    paths = list(draw_paths(found.vectors, moods, ends, steps, k, metric))
    dealt = moods[rng.permutation(len(moods))]
    # The ends keep their own moods: only what the neighbours say is dealt at random.
    chance = list(draw_paths(found.vectors, dealt, ends, steps, k, metric, moods))
    summary: Interpolation = {
        "images": len(found),
        "metric": metric,
        "paths": len(paths),
        "unmoved": sum(p.monotonicity is None for p in paths),
        "too_alike": too_alike,
        "soft": float(np.mean([r.emotion_scores is not None for r in found.records])),
        "steps": steps,
        "k": k,
        "left_out": found.left_out,
        "monotonicity": _mean([p.monotonicity for p in paths], [p.monotonicity for p in chance], seed),
        "progress": _mean([p.progress for p in paths], [p.progress for p in chance], seed),
        "largest_step": _mean([p.largest_step for p in paths], [p.largest_step for p in chance], seed),
        "pairs": _by_pair(paths, emotions),
        "mean_position": [float(v) for v in np.mean([p.position for p in paths], axis=0)],
    }
    return summary, paths


def _ends(
    emotions: list[str | None], moods: Array, per_pair: int, rng: np.random.Generator
) -> tuple[list[tuple[int, int]], int]:
    """(rows of first and last image, how many were drawn too alike)."""
    present = [str(e) for e in EMOTIONS if str(e) in emotions]
    names = np.array([e or "" for e in emotions])
    ends, alike = [], 0
    for one, two in combinations(present, 2):
        for a, b in zip(
            rng.choice(np.flatnonzero(names == one), per_pair), rng.choice(np.flatnonzero(names == two), per_pair), strict=True
        ):
            if ((moods[a] - moods[b]) ** 2).sum() < MIN_SQUARED_DISTANCE:
                alike += 1
            elif (pair := (int(a), int(b))) not in ends:
                ends.append(pair)
    return ends, alike


def draw_paths(
    vectors: Array,
    moods: Array,
    ends: list[tuple[int, int]],
    steps: int,
    k: int,
    metric: DistanceMetric,
    own: Array | None = None,
) -> Iterator[Path]:
    """Read straight paths by the images near them.

    Args:
        vectors: (N, des_dim).
        moods: (N, 8) distributions of the images as neighbours.
        ends: rows of first and last image, different in mood.
        steps: points on a path.
        k: neighbours, at most N − 2.
        metric: by which they are near.
        own: (N, 8) distributions of the images as ends; None: the same.
    """
    own = moods if own is None else own
    index = exact_index(vectors, k + 2, metric)
    along = np.linspace(0, 1, steps)[:, None]
    for a, b in ends:
        points = (1 - along) * vectors[a] + along * vectors[b]
        found = np.asarray(index.kneighbors(points, return_distance=False))
        # The ends are among the k + 2 at most; the first k others remain.
        kept = np.array([[i for i in row if i not in (a, b)][:k] for row in found])
        mood = moods[kept].mean(axis=1)
        direction = own[b] - own[a]
        yield Path(a, b, kept[:, 0], mood, (mood - own[a]) @ direction / (direction @ direction))


def _mean(given: Sequence[float | None], random: Sequence[float | None], seed: int) -> PathMean:
    """Over the paths that have the value.

    Args:
        given: of each path.
        random: of the same paths where moods are dealt at random.
        seed: of the interval's bootstrap.
    """
    values, chance = (np.array([v for v in group if v is not None]) for group in (given, random))
    if not len(values):
        return {"value": None, "low": None, "high": None, "chance": None}
    value, low, high = mean_interval(values, seed)
    return {"value": value, "low": low, "high": high, "chance": float(chance.mean()) if len(chance) else None}


def _by_pair(paths: list[Path], emotions: list[str | None]) -> dict[str, float]:
    groups: dict[str, list[float]] = {}
    for path in paths:
        if (value := path.monotonicity) is not None:
            groups.setdefault(f"{emotions[path.a]}-{emotions[path.b]}", []).append(value)
    return {name: float(np.mean(values)) for name, values in sorted(groups.items())}
