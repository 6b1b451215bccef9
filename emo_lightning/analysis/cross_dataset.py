"""What fine-tuning on one data set costs on others: accuracy of every arm on every set, and the difference to the untuned base.

It is known that hard-label fine-tuning of this kind of model can gain much on its own data set and end below the untuned model on
another. `collapse` is made to show that: accuracy out of the domain minus the base's, on the same images. Every set on which an arm
ends surely below the base is named first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from emo_lightning.analysis.label_spaces import SPACES, LabelSpace, SpaceName
from emo_lightning.analysis.scored import probabilities
from emo_lightning.core.intervals import LEVEL, wilson
from emo_lightning.core.records import Prediction, Record, SchemaError
from emo_lightning.metrics.bootstrap import FEWEST, RESAMPLES, difference, draws, interval


@dataclass
class TestSet:
    """A data set to test on.

    Args:
        references: .jsonl files of records, or tars (files, folders, globs); `emo prep export --labels source` makes them.
        space: label space in which its answers are compared (eight, ekman, polarity, intensity).
    """

    references: list[str]
    space: SpaceName = "eight"


TestSet.__test__ = False  # type: ignore[attr-defined]  # it is no test case of pytest


@dataclass(frozen=True)
class _Answers:
    scored: np.ndarray | None
    """(N,) bool: right by the most probable class; None where no prediction has a distribution, or the space needs words."""
    said: np.ndarray
    """(N,) bool: right by the words."""
    classes: list[str | None]
    """What counts: by the distribution where there is one, else by the words."""
    missing: int
    unscored: int
    unreadable: int

    @property
    def right(self) -> np.ndarray:
        return self.said if self.scored is None else self.scored


def cross_dataset(
    predictions: Mapping[str, Mapping[str, Prediction]],
    sets: Mapping[str, tuple[Sequence[Record], SpaceName]],
    base: str,
    in_domain: str,
    seed: int = 0,
    trained: Set[str] = frozenset(),
) -> dict[str, Any]:
    """The whole table.

    An image counts as answered by the class that has most of the predicted distribution, where the arm has distributions on this
    set at all, else by the word. An image without a usable answer counts as wrong. Images that were trained on are left out.

    Args:
        predictions: arm -> predictions by id.
        sets: name -> references and label space.
        base: arm that was not fine-tuned.
        in_domain: set like the one that was trained on.
        seed: of the bootstrap; arms meet the same resamples, so that differences are paired.
        trained: sha256 of the images that an arm was trained on.

    Returns:
        `sets`: name -> `space`, `map`, `images`, `without_class`, `trained_on` (both left out), `classes` (class -> images),
        `chance` (share of the most frequent class, percent); `arms`: arm -> set -> `accuracy` and `macro_recall` (percent, accuracy
        with Wilson's `low`, `high`), `said` (accuracy by the words alone), `missing`, `unscored`, `unreadable`, `predicted`
        (class -> images) and, but for the base, `gain` over the base (`difference` in points, its `interval` by the bootstrap, `p`
        of McNemar's exact test); `collapse`: arm -> mean gain over the sets out of the domain, those of intensity left out where
        there are others (`difference`, `interval`); `worst`: arm -> the set of them with the least gain; `collapsed`: [arm, set] of
        every gain out of the domain whose whole interval lies below zero with p < 0.05, not corrected for their number: a warning
        too many costs less than one too few; `alike`: lists of arms that answered every image alike.

    Raises:
        SchemaError: an unknown base or set, or a set without an image that has a class; names it.
    """
    for what, name, known in (("base", base, predictions), ("in_domain", in_domain, sets)):
        if name not in known:
            msg = f"{what}: {name!r} is unknown; allowed: {', '.join(known) or 'none is named'}"
            raise SchemaError(msg)
    about: dict[str, Any] = {}
    arms: dict[str, dict[str, Any]] = {arm: {} for arm in predictions}
    gaps: dict[str, dict[str, np.ndarray]] = {arm: {} for arm in predictions if arm != base}
    for name, (records, space_name) in sets.items():
        space = SPACES[space_name]
        unseen = [record for record in records if record.sha256 not in trained]
        pairs = [(record, label) for record in unseen if (label := space.reference(record)) is not None]
        if not pairs:
            seen = f" that was not trained on ({len(records) - len(unseen)} were)" if len(unseen) < len(records) else ""
            msg = f"set {name!r}: none of {len(records)} references{seen} has a class in the label space {space_name!r}"
            raise SchemaError(msg)
        truth = [label for _, label in pairs]
        about[name] = _about(space, len(unseen), truth) | {"trained_on": len(records) - len(unseen)}
        weights = draws([record.id for record, _ in pairs], RESAMPLES, seed)
        answers = {arm: _answers(said, pairs, space) for arm, said in predictions.items()}
        for arm, found in answers.items():
            arms[arm][name] = _row(found, truth, space)
            if arm != base:
                arms[arm][name]["gain"], gaps[arm][name] = _gain(found.right, answers[base].right, weights)
    return {
        "sets": about,
        "arms": arms,
        "base": base,
        "in_domain": in_domain,
        **_collapse(about, arms, gaps, base, in_domain),
        "alike": _alike(predictions),
        "seed": seed,
    }


def _collapse(
    sets: Mapping[str, Any],
    arms: Mapping[str, dict[str, Any]],
    gaps: Mapping[str, Mapping[str, np.ndarray]],
    base: str,
    in_domain: str,
) -> dict[str, Any]:
    """`collapse`, `worst` and `collapsed` of `cross_dataset`."""
    outside = [name for name in sets if name != in_domain]
    # Levels of intensity are no emotions: a gain there must not make up for a loss here.
    felt = [name for name in outside if sets[name]["space"] != "intensity"] or outside
    gains = {arm: {n: rows[n]["gain"] for n in outside} for arm, rows in arms.items() if arm != base and outside}
    fewest = min((sets[n]["images"] for n in felt), default=0)
    return {
        "collapse": {
            arm: {
                "difference": sum(found[n]["difference"] for n in felt) / len(felt),
                "interval": interval(np.mean([gaps[arm][n] for n in felt], axis=0), fewest),
            }
            for arm, found in gains.items()
        },
        "worst": {arm: min(felt, key=lambda n: found[n]["difference"]) for arm, found in gains.items()},
        "collapsed": [
            [arm, n]
            for arm, found in gains.items()
            for n in outside
            if found[n]["interval"] and found[n]["interval"][1] < 0 and found[n]["p"] < 1 - LEVEL
        ],
    }


def _alike(predictions: Mapping[str, Mapping[str, Prediction]]) -> list[list[str]]:
    """Groups of arms whose answers are equal to the last digit: what sets such arms apart had nothing to work on."""
    groups: dict[str, list[str]] = {}
    for arm, said in predictions.items():
        digest = hashlib.sha256()
        for key in sorted(said):
            digest.update(repr((key, said[key].emotion, said[key].intensity, said[key].emotion_scores)).encode())
        groups.setdefault(digest.hexdigest(), []).append(arm)
    return [arms for arms in groups.values() if len(arms) > 1]


def _about(space: LabelSpace, references: int, truth: Sequence[str]) -> dict[str, Any]:
    counts = {c: truth.count(c) for c in space.classes}
    return {
        "space": space.name,
        "map": space.about,
        "images": len(truth),
        "without_class": references - len(truth),
        "classes": counts,
        "chance": 100 * max(counts.values()) / len(truth),
    }


def _answers(said: Mapping[str, Prediction], pairs: Sequence[tuple[Record, str]], space: LabelSpace) -> _Answers:
    words: list[str | None] = []
    scored: list[str | None] = []
    missing = 0
    for record, _ in pairs:
        prediction = said.get(record.id)
        missing += prediction is None
        words.append(None if prediction is None else space.from_words(prediction))
        scores = probabilities(prediction) if prediction is not None and space.of_emotion else None
        scored.append(None if scores is None else space.from_scores(scores))
    truth = [label for _, label in pairs]
    has_scores = any(c is not None for c in scored)
    hit = np.array([c == t for c, t in zip(scored, truth, strict=True)]) if has_scores else None
    return _Answers(
        hit,
        np.array([c == t for c, t in zip(words, truth, strict=True)]),
        scored if has_scores else words,
        missing,
        sum(c is None for c in scored) - missing if has_scores else 0,
        sum(c is None for c in words) - missing,
    )


def _row(found: _Answers, truth: Sequence[str], space: LabelSpace) -> dict[str, Any]:
    present = [c for c in space.classes if c in truth]
    labels = np.array(truth)
    # Wilson's interval is not nothing where all are right or all wrong, as the bootstrap's would be.
    bounds = wilson(int(found.right.sum()), len(found.right)) if len(found.right) >= FEWEST else None
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


def _gain(right: np.ndarray, base: np.ndarray, weights: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """(difference in points with its interval and the p of McNemar's exact test, its replicates (R,))."""
    pair = (_accuracies(right, weights), _accuracies(base, weights))
    found = difference(100 * float(right.mean()), 100 * float(base.mean()), pair, len(right))
    won, lost = int((right & ~base).sum()), int((base & ~right).sum())
    if found["p"] is not None:
        found["p"] = float(binomtest(won, won + lost).pvalue) if won + lost else 1.0
    return found, pair[0] - pair[1]


def _accuracies(right: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Percent in each resample, (R,)."""
    with np.errstate(invalid="ignore"):
        return 100 * (right @ weights) / weights.sum(0)
