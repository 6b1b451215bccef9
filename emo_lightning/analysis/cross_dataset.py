"""What fine-tuning on one data set costs on others: accuracy of every arm on every set, and the difference to the untuned base.

It is known that hard-label fine-tuning of this kind of model can gain much on its own data set and end below the untuned model on
another. `collapse` is made to show that: accuracy out of the domain minus the base's, on the same images. Every set on which an arm
ends surely below the base is named first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import numpy as np
from scipy.stats import binomtest

from emo_lightning.analysis.label_spaces import LabelSpace, SpaceName
from emo_lightning.analysis.references import require
from emo_lightning.analysis.right_answers import RightAnswers, judged_sets, right_answers
from emo_lightning.core.intervals import CONFIDENCE_LEVEL, wilson
from emo_lightning.core.records import Prediction, Reference, SchemaError
from emo_lightning.metrics.arrays import Array, Flags
from emo_lightning.metrics.bootstrap import (
    MIN_IMAGES_FOR_INTERVAL,
    RESAMPLES,
    Difference,
    Estimate,
    difference,
    draws,
    interval,
    resampled_means,
)


@dataclass
class TestSet:
    """A data set to test on."""

    references: list[str]
    """.jsonl files of records, or tars (files, folders, globs); `emo prep export --labels source` makes them."""
    space: SpaceName = "eight"
    """Label space in which its answers are compared: eight, ekman, polarity, intensity; or a suite's own words, unbiasedemo-6, eemo-7, webemo-7,
    webemo-25."""


TestSet.__test__ = False  # type: ignore[attr-defined]  # it is no test case of pytest


class AboutSet(TypedDict):
    """One data set."""

    space: SpaceName
    map: str
    """The label space in words."""
    images: int
    without_class: int
    """References that the label space has no class for, left out."""
    classes: dict[str, int]
    """Class -> images."""
    chance: float
    """Share of the most frequent class, percent."""
    trained_on: int
    """Images that an arm was trained on, left out."""


class SetScores(TypedDict):
    """One arm on one data set, in percent."""

    accuracy: Estimate
    """With Wilson's interval."""
    macro_recall: float
    by: str
    """What counts: "scores" or "words"."""
    said: float
    """Accuracy by the words alone."""
    missing: int
    unscored: int
    unreadable: int
    predicted: dict[str, int]
    """Class -> images."""
    gain: NotRequired[Difference]
    """Over the base, in points, with the p of McNemar's exact test; the base has none."""


class Collapse(TypedDict):
    """Mean gain over the sets out of the domain."""

    difference: float
    interval: list[float] | None


class CrossDataset(TypedDict):
    """`cross_dataset.json`."""

    sets: dict[str, AboutSet]
    arms: dict[str, dict[str, SetScores]]
    """Arm -> set -> scores."""
    base: str
    in_domain: str
    collapse: dict[str, Collapse]
    """Arm -> mean gain over the sets out of the domain, those of intensity left out where there are others."""
    worst: dict[str, str]
    """Arm -> the one of them with the least gain."""
    collapsed: list[list[str]]
    """[arm, set] of every gain out of the domain whose whole interval lies below zero with p < 0.05. That is not corrected for their
    number: a warning too many costs less than one too few."""
    alike: list[list[str]]
    """Arms that answered every image alike."""
    seed: int


def trained_images(records: Sequence[Reference]) -> set[str]:
    """`Reference.image_hashes` of all images that were trained on.

    Raises:
        SchemaError: one does not say of which bytes it is.
    """
    require(records, ["sha256"], "by it images that were trained on are found among those that are tested")
    return {digest for record in records for digest in record.image_hashes}


def cross_dataset(
    predictions: Mapping[str, Mapping[str, Prediction]],
    sets: Mapping[str, tuple[Sequence[Reference], SpaceName]],
    base: str,
    in_domain: str,
    seed: int = 0,
    trained: Set[str] = frozenset(),
) -> CrossDataset:
    """The whole table.

    An image counts as answered by the class that has most of the predicted distribution, where the arm has distributions on this
    set at all, else by the word. An image without a usable answer counts as wrong. Images that were trained on are left out.

    Args:
        predictions: arm -> predictions by id.
        sets: name -> references and label space.
        base: arm that was not fine-tuned.
        in_domain: set like the one that was trained on.
        seed: of the bootstrap; arms meet the same resamples, so that differences are paired.
        trained: `Reference.image_hashes` of the images that an arm was trained on.

    Raises:
        SchemaError: an unknown base or set, a set without an image that has a class, or two sets with other pictures under one id; names
            it.
    """
    for what, name, known in (("base", base, predictions), ("in_domain", in_domain, sets)):
        if name not in known:
            msg = f"{what}: {name!r} is unknown; allowed: {', '.join(known) or 'none is named'}"
            raise SchemaError(msg)
    about: dict[str, AboutSet] = {}
    arms: dict[str, dict[str, SetScores]] = {arm: {} for arm in predictions}
    gaps: dict[str, dict[str, Array]] = {arm: {} for arm in predictions if arm != base}
    for name, judged in judged_sets(sets, trained).items():
        space, truth = judged.space, judged.truth
        about[name] = _about(space, len(sets[name][0]), judged.unseen, truth)
        weights = draws(judged.ids, RESAMPLES, seed)
        correctness = {arm: right_answers(said, judged) for arm, said in predictions.items()}
        for arm, found in correctness.items():
            arms[arm][name] = _row(found, truth, space)
            if arm != base:
                arms[arm][name]["gain"], gaps[arm][name] = gain(found.right, correctness[base].right, weights)
    outside = _gains_outside(about, arms, base, in_domain)
    # Levels of intensity are no emotions: a gain there must not make up for a loss here.
    felt = [name for name in about if name != in_domain and about[name]["space"] != "intensity"] or [
        name for name in about if name != in_domain
    ]
    return {
        "sets": about,
        "arms": arms,
        "base": base,
        "in_domain": in_domain,
        "collapse": {arm: _collapse(gains, gaps[arm], felt, about) for arm, gains in outside.items()},
        "worst": {arm: min(felt, key=lambda name: gains[name]["difference"]) for arm, gains in outside.items()},
        "collapsed": [[arm, name] for arm, gains in outside.items() for name in gains if _surely_below(gains[name])],
        "alike": _alike(predictions),
        "seed": seed,
    }


def _gains_outside(
    sets: Mapping[str, AboutSet], arms: Mapping[str, Mapping[str, SetScores]], base: str, in_domain: str
) -> dict[str, dict[str, Difference]]:
    """Arm -> set out of the domain -> gain over the base; empty where there is no such set."""
    outside = [name for name in sets if name != in_domain]
    return {arm: {name: rows[name]["gain"] for name in outside} for arm, rows in arms.items() if arm != base and outside}


def _collapse(
    gains: Mapping[str, Difference], gaps: Mapping[str, Array], felt: Sequence[str], sets: Mapping[str, AboutSet]
) -> Collapse:
    fewest = min(sets[name]["images"] for name in felt)
    return mean_gain([gains[name] for name in felt], [gaps[name] for name in felt], fewest)


def mean_gain(gains: Sequence[Difference], gaps: Sequence[Array], fewest: int) -> Collapse:
    """What collapse is: the mean gain over the untuned base on sets out of the domain, every set counted alike.

    Args:
        gains: of each set, in points.
        gaps: their replicates, (R,) each, from the same resamples.
        fewest: images of the smallest set.
    """
    mean = sum(one["difference"] for one in gains) / len(gains)
    return {"difference": mean, "interval": interval(np.mean(gaps, axis=0), fewest)}


def _surely_below(gain: Difference) -> bool:
    """The whole interval lies below zero, and p says so too."""
    return bool(gain["interval"] and gain["interval"][1] < 0 and gain["p"] is not None and gain["p"] < 1 - CONFIDENCE_LEVEL)


def _alike(predictions: Mapping[str, Mapping[str, Prediction]]) -> list[list[str]]:
    """Groups of arms whose answers are equal to the last digit: what sets such arms apart had nothing to work on."""
    groups: dict[str, list[str]] = {}
    for arm, said in predictions.items():
        digest = hashlib.sha256()
        for key in sorted(said):
            digest.update(repr((key, said[key].emotion, said[key].intensity, said[key].emotion_scores)).encode())
        groups.setdefault(digest.hexdigest(), []).append(arm)
    return [arms for arms in groups.values() if len(arms) > 1]


def _about(space: LabelSpace, references: int, unseen: int, truth: Sequence[str]) -> AboutSet:
    counts = {c: truth.count(c) for c in space.classes}
    return {
        "space": space.name,
        "map": space.about,
        "images": len(truth),
        "without_class": unseen - len(truth),
        "classes": counts,
        "chance": 100 * max(counts.values()) / len(truth),
        "trained_on": references - unseen,
    }


def _row(found: RightAnswers, truth: Sequence[str], space: LabelSpace) -> SetScores:
    present = [c for c in space.classes if c in truth]
    labels = np.array(truth)
    # Wilson's interval is not nothing where all are right or all wrong, as the bootstrap's would be.
    bounds = wilson(int(found.right.sum()), len(found.right)) if len(found.right) >= MIN_IMAGES_FOR_INTERVAL else None
    return {
        "accuracy": {
            "value": 100 * float(found.right.mean()),
            "low": bounds and 100 * bounds[0],
            "high": bounds and 100 * bounds[1],
        },
        "macro_recall": 100 * float(np.mean([found.right[labels == c].mean() for c in present])),
        "by": "words" if found.scored is None else "scores",
        "said": 100 * float(found.said.mean()),
        "missing": found.missing,
        "unscored": found.unscored,
        "unreadable": found.unreadable,
        "predicted": {c: found.classes.count(c) for c in space.classes},
    }


def gain(right: Flags, base: Flags, weights: Array) -> tuple[Difference, Array]:
    """(difference in points with its interval and the p of McNemar's exact test, its replicates (R,))."""
    mine, other = (resampled_means(100 * one.astype(np.float64), weights) for one in (right, base))
    found = difference(100 * float(right.mean()), 100 * float(base.mean()), (mine, other), len(right))
    won, lost = int((right & ~base).sum()), int((base & ~right).sum())
    if found["p"] is not None:
        found["p"] = float(binomtest(won, won + lost).pvalue) if won + lost else 1.0
    return found, mine - other
