"""Whether two arms of Table 6 differ by more than the choice of test images: paired on the same images, seeds kept apart.

Difference: mean over an arm's seeds of its accuracy (or macro-F1), second arm minus first, in points. Two percentile intervals by
bootstrap: over images alone (these trained networks, other images) and over seeds and images (another training too; each arm's
seeds are drawn with replacement on their own). p: per image, the seeds' mean correctness of the two arms is exchanged at random
(sign-flip permutation, two-sided); with one seed on both sides that is McNemar's test, computed exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from emo_lightning.analysis.probe_predictions import ArmPredictions, read_arm
from emo_lightning.analysis.table6 import TABLE6_SETS
from emo_lightning.core.emotions import NUM_EMOTIONS
from emo_lightning.core.errors import InputError, MissingFileError
from emo_lightning.core.intervals import CONFIDENCE_LEVEL
from emo_lightning.core.records import SchemaError

RANDOM_EXCHANGES = 9999
"""Random exchanges behind a p-value that is not exact; the smallest p is 1e-4."""

_CHUNK = 1 << 22
"""Resampled images held at a time."""


class MetricDifference(TypedDict):
    """A metric of the second arm minus that of the first, in points, with two intervals [low, high]."""

    difference: float
    images: list[float]
    seeds_and_images: list[float] | None
    """None with one seed on both sides."""


class Comparison(TypedDict):
    """Two arms on the same images."""

    accuracy: MetricDifference
    f1: MetricDifference
    p: float
    """Of the accuracy."""
    exact: bool
    """Whether `p` is McNemar's exact one."""
    better: int
    """Images on which the second arm's seeds are right more often."""
    worse: int


class Pair(Comparison):
    """A comparison with its arms' names."""

    a: str
    b: str
    p_holm: float
    """`p` adjusted over the pairs of the set (Holm 1979)."""


class PairedSet(TypedDict):
    """All pairs of arms on one set."""

    images: int
    pairs: list[Pair]


class PairedTests(TypedDict):
    """All pairs of arms on every set that all arms have."""

    resamples: int
    flips: int
    confidence_level: float
    """Of the intervals, as a share."""
    seed: int
    sets: dict[str, PairedSet]


class Skipped(TypedDict):
    """Why there is no paired test."""

    skipped: str


def paired_tests(runs: Mapping[str, Sequence[Path]], *, resamples: int = 2000, seed: int = 0) -> PairedTests | Skipped:
    """Every pair of arms, on every set that all arms have.

    Args:
        runs: arm -> probe folders, one per seed.
        resamples: of the bootstrap.
        seed: of bootstrap and permutation.

    Returns:
        Why there is none, where a folder lacks what is needed or one arm stands alone.

    Raises:
        SchemaError: arms were evaluated on different images.
        InputError: too few resamples.
    """
    if resamples < 100:
        msg = f"resamples={resamples}; expected at least 100"
        raise InputError(msg)
    if len(runs) < 2:
        return {"skipped": "one arm alone has nothing to be compared with"}
    try:
        arms = {arm: read_arm(folders) for arm, folders in runs.items()}
    except MissingFileError as error:
        return {"skipped": str(error)}
    sets: dict[str, PairedSet] = {}
    for name in [s for s in TABLE6_SETS if all(s in found for found in arms.values())]:
        _check_alike(name, arms)
        if images := len(next(iter(arms.values()))[name].ids):
            compared = [
                (a, b, compare(arms[a][name], arms[b][name], resamples=resamples, seed=seed)) for a, b in combinations(arms, 2)
            ]
            adjusted = holm([found["p"] for _, _, found in compared])
            pairs: list[Pair] = [
                {"a": a, "b": b, **found, "p_holm": p} for (a, b, found), p in zip(compared, adjusted, strict=True)
            ]
            sets[name] = {"images": images, "pairs": pairs}
    return {"resamples": resamples, "flips": RANDOM_EXCHANGES, "confidence_level": CONFIDENCE_LEVEL, "seed": seed, "sets": sets}


def _check_alike(name: str, arms: Mapping[str, Mapping[str, ArmPredictions]]) -> None:
    """Refuse arms that were evaluated on different images of a set."""
    first, *others = arms
    one = arms[first][name]
    for arm in others:
        other = arms[arm][name]
        if other.ids != one.ids or (other.truth != one.truth).any():
            msg = (
                f"Table 6: arms {first!r} ({len(one.ids)} images) and {arm!r} ({len(other.ids)}) were "
                f"evaluated on different images of {name!r}, or with different emotions; they cannot be compared"
            )
            raise SchemaError(msg)


def compare(a: ArmPredictions, b: ArmPredictions, *, resamples: int = 2000, seed: int = 0) -> Comparison:
    """Two arms on the same images; every difference is b − a."""
    rng = np.random.default_rng(seed)
    codes = [[_one_hot(arm.truth * NUM_EMOTIONS + row) for row in arm.predicted] for arm in (a, b)]
    accuracies: list[NDArray[np.float64]] = []
    f1s: list[NDArray[np.float64]] = []
    for weights in _bootstrap(len(a.ids), resamples, rng):
        tables = [np.stack([weights @ code for code in arm]) for arm in codes]  # (seeds, chunk, 64)
        # (seeds of a, then of b; chunk)
        accuracies.append(np.concatenate([_accuracy(table) for table in tables]))
        f1s.append(np.concatenate([_macro_f1(table) for table in tables]))
    whole = [np.stack([code.sum(axis=0) for code in arm]) for arm in codes]
    picks = [rng.integers(len(arm), size=(len(arm), resamples)) for arm in codes]
    gain = b.correct.mean(axis=0) - a.correct.mean(axis=0)
    exact = len(a.predicted) == len(b.predicted) == 1
    better, worse = int((gain > 1e-9).sum()), int((gain < -1e-9).sum())
    return {
        "accuracy": _difference(_accuracy, whole, np.concatenate(accuracies, axis=1), picks),
        "f1": _difference(_macro_f1, whole, np.concatenate(f1s, axis=1), picks),
        "p": _mcnemar(better, worse) if exact else _sign_flip(gain, rng),
        "exact": exact,
        "better": better,
        "worse": worse,
    }


def _difference(
    metric: Callable[[NDArray[np.float32]], NDArray[np.float64]],
    whole: Sequence[NDArray[np.float32]],
    replicates: NDArray[np.float64],
    picks: Sequence[NDArray[np.int64]],
) -> MetricDifference:
    """One metric of two arms.

    Args:
        metric: confusion counts to values.
        whole: of each arm, the counts of each seed on all images, (seeds, 64).
        replicates: (seeds of a, then of b; resamples) the metric in each resample of the images.
        picks: of each arm, which seed stands in the place of which, (seeds, resamples).
    """
    of_a, of_b = np.split(replicates, [len(whole[0])])
    both = [np.take_along_axis(arm, pick, axis=0).mean(axis=0) for arm, pick in zip((of_a, of_b), picks, strict=True)]
    several = max(len(arm) for arm in whole) > 1
    return {
        "difference": 100 * float(metric(whole[1]).mean() - metric(whole[0]).mean()),
        "images": _interval(of_b.mean(axis=0) - of_a.mean(axis=0)),
        "seeds_and_images": _interval(both[1] - both[0]) if several else None,
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the order given."""
    order = np.argsort(p_values, kind="stable")
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def _one_hot(code: NDArray[np.int64]) -> NDArray[np.float32]:
    """(N,) codes truth × 8 + predicted to (N, 64); float32 counts exactly to 16 million."""
    return np.eye(NUM_EMOTIONS * NUM_EMOTIONS, dtype=np.float32)[code]


def _bootstrap(images: int, resamples: int, rng: np.random.Generator) -> Iterator[NDArray[np.float32]]:
    """How often each image is drawn: (chunk, N), `resamples` rows in all."""
    step = max(1, _CHUNK // images)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(images, size=(rows, images)) + images * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images).astype(np.float32)


def _accuracy(tables: NDArray[np.float32]) -> NDArray[np.float64]:
    """(…, 64) confusion counts to (…)."""
    square = tables.reshape(*tables.shape[:-1], NUM_EMOTIONS, NUM_EMOTIONS).astype(np.float64)
    shares: NDArray[np.float64] = np.trace(square, axis1=-2, axis2=-1) / square.sum(axis=(-2, -1))
    return shares


def _macro_f1(tables: NDArray[np.float32]) -> NDArray[np.float64]:
    """As torchmetrics: the mean over classes that occur in the truth or among the answers."""
    square = tables.reshape(*tables.shape[:-1], NUM_EMOTIONS, NUM_EMOTIONS).astype(np.float64)
    hits = np.diagonal(square, axis1=-2, axis2=-1)
    total = square.sum(axis=-1) + square.sum(axis=-2)
    means: NDArray[np.float64] = (2 * hits / np.maximum(total, 1)).sum(axis=-1) / (total > 0).sum(axis=-1)
    return means


def _interval(values: NDArray[np.float64]) -> list[float]:
    tail = (100 - 100 * CONFIDENCE_LEVEL) / 2
    return [100 * float(v) for v in np.percentile(values, (tail, 100 - tail))]


def _mcnemar(better: int, worse: int) -> float:
    from scipy.stats import binomtest

    return float(binomtest(better, better + worse).pvalue) if better + worse else 1.0


def _sign_flip(gain: NDArray[np.float64], rng: np.random.Generator) -> float:
    moved = gain[gain != 0]
    if not len(moved):
        return 1.0
    limit, extreme = abs(moved.sum()) - 1e-9, 0
    step = max(1, _CHUNK // len(moved))
    for start in range(0, RANDOM_EXCHANGES, step):
        signs = rng.integers(0, 2, size=(min(step, RANDOM_EXCHANGES - start), len(moved)), dtype=np.int8) * 2 - 1
        extreme += int((abs(signs @ moved) >= limit).sum())
    return (1 + extreme) / (1 + RANDOM_EXCHANGES)
