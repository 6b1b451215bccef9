"""What a way of training gains on every data set over another, over several seeds: is a difference more than the choice of seeds and images?

Runs of one seed are a pair: they began at the same model and saw the same data in the same order. Two intervals, both of the mean over the
seeds: over images (these trained models, other images) by bootstrap of the seeds' mean correctness, and over seeds (other trainings, these
images) by Student's t of the differences of each seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from typing import TypedDict

import numpy as np

from emo_lightning.analysis.label_spaces import SpaceName
from emo_lightning.analysis.right_answers import judged_sets, right_answers
from emo_lightning.analysis.table6 import Summary, summary
from emo_lightning.core.errors import InputError
from emo_lightning.core.intervals import CONFIDENCE_LEVEL, student_margin
from emo_lightning.core.records import Prediction, Reference, SchemaError
from emo_lightning.metrics.arrays import Array
from emo_lightning.metrics.bootstrap import RESAMPLES, draws, interval, resampled_means


class SeedGain(TypedDict):
    """Accuracy of an arm minus that of another, in points."""

    difference: float
    """Mean over the seeds."""
    values: list[float]
    """Of each seed."""
    images: list[float] | None
    """[low, high] over images; None for one image."""
    seeds: list[float] | None
    """[low, high] over seeds; None for one seed, or where all gain as much."""


class ArmOverSeeds(TypedDict):
    """An arm on one data set, in percent."""

    accuracy: Summary
    most_said: Summary
    """Share of the class that is answered most often: 100 where a model says one thing of everything."""
    gains: dict[str, SeedGain]
    """Arm that it is compared with -> the difference."""


class AcrossSeeds(TypedDict):
    """`across_seeds.json`."""

    seeds: int
    images: dict[str, int]
    """Of each set."""
    arms: dict[str, dict[str, ArmOverSeeds]]
    """Arm -> set."""
    against: list[str]
    confidence_level: float
    """Of the intervals, as a share."""
    seed: int


def across_seeds(
    predictions: Mapping[str, Sequence[Mapping[str, Prediction]]],
    sets: Mapping[str, tuple[Sequence[Reference], SpaceName]],
    against: Sequence[str],
    seed: int = 0,
    trained: Set[str] = frozenset(),
) -> AcrossSeeds:
    """Every arm on every set, against each of some arms.

    Args:
        predictions: arm -> predictions by id of each seed, in the same order for all arms; one alone stands for all seeds.
        sets: name -> references and label space.
        against: arms that the others are compared with.
        seed: of the bootstrap.
        trained: `Reference.image_hashes` of the images that an arm was trained on, which are left out.

    Raises:
        InputError: arms have different numbers of seeds.
        SchemaError: an arm to compare with is unknown, a set has no image with a class, or two sets have other pictures under one id.
    """
    seeds = _seeds(predictions)
    if unknown := [arm for arm in against if arm not in predictions]:
        msg = f"against: {unknown[0]!r} is unknown; allowed: {', '.join(predictions) or 'none is named'}"
        raise SchemaError(msg)
    images: dict[str, int] = {}
    arms: dict[str, dict[str, ArmOverSeeds]] = {arm: {} for arm in predictions}
    for name, judged in judged_sets(sets, trained).items():
        images[name] = len(judged.records)
        weights = draws(judged.ids, RESAMPLES, seed)
        found = {arm: [right_answers(said, judged) for said in runs] for arm, runs in predictions.items()}
        # (seeds, images), in percent.
        right = {arm: np.stack([100.0 * one.right for one in runs]) for arm, runs in found.items()}
        for arm, runs in found.items():
            others = [other for other in against if other != arm]
            arms[arm][name] = {
                "accuracy": summary([float(values.mean()) for values in right[arm]]),
                "most_said": summary([_most_said(one.classes) for one in runs]),
                "gains": {other: _gain(right[arm], right[other], seeds, weights) for other in others},
            }
    return {
        "seeds": seeds,
        "images": images,
        "arms": arms,
        "against": list(against),
        "confidence_level": CONFIDENCE_LEVEL,
        "seed": seed,
    }


def _seeds(predictions: Mapping[str, Sequence[object]]) -> int:
    """How many each arm has; one that stands for all has none of its own."""
    counts = {arm: len(runs) for arm, runs in predictions.items()}
    several = sorted({count for count in counts.values() if count > 1})
    if 0 in counts.values() or len(several) > 1:
        msg = f"predictions: found {', '.join(f'{count} of {arm!r}' for arm, count in counts.items())}; allowed: 1, or as many for all arms"
        raise InputError(msg)
    return several[0] if several else 1


def _gain(right: Array, other: Array, seeds: int, weights: Array) -> SeedGain:
    """Arrays are (seeds or 1, images), `weights` (images, resamples)."""
    gaps = np.broadcast_to(right, (seeds, right.shape[1])) - other
    values = gaps.mean(axis=1)
    return {
        "difference": float(values.mean()),
        "values": values.tolist(),
        "images": interval(resampled_means(gaps.mean(axis=0), weights), gaps.shape[1]),
        "seeds": _over_seeds(values),
    }


def _over_seeds(values: Array) -> list[float] | None:
    # What is left by rounding is no spread.
    if len(values) < 2 or np.ptp(values) < 1e-9:
        return None
    mean = float(values.mean())
    half = student_margin(float(values.std(ddof=1)) / math.sqrt(len(values)), len(values))
    return [mean - half, mean + half]


def _most_said(classes: Sequence[str | None]) -> float:
    return 100 * max((classes.count(one) for one in {*classes} - {None}), default=0) / len(classes)
