"""What fine-tuning on one data set costs on others: accuracy of every arm on every set, and the difference to the untuned base.

It is known that hard-label fine-tuning of this kind of model can gain much on its own data set and end below the untuned model on
another. `collapse` is made to show that: accuracy out of the domain minus the base's, on the same images. Every set on which an arm
ends surely below the base is named first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from emo_lightning.evaluation.bootstrap import RESAMPLES, difference, draws, interval
from emo_lightning.evaluation.label_spaces import SPACES, LabelSpace, SpaceName
from emo_lightning.evaluation.page import Cell, Page, PageTable, Spread
from emo_lightning.evaluation.scored import probabilities
from emo_lightning.schema import Prediction, Record, SchemaError


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
) -> dict[str, Any]:
    """The whole table.

    An image counts as answered by the class that has most of the predicted distribution, where the arm has distributions on this
    set at all, else by the word. An image without a usable answer counts as wrong.

    Args:
        predictions: arm -> predictions by id.
        sets: name -> references and label space.
        base: arm that was not fine-tuned.
        in_domain: set like the one that was trained on.
        seed: of the bootstrap; arms meet the same resamples, so that differences are paired.

    Returns:
        `sets`: name -> `space`, `map`, `images`, `without_class`, `classes` (class -> images), `chance` (share of the most frequent
        class, percent); `arms`: arm -> set -> `accuracy` and `macro_recall` (percent, accuracy with `low`, `high`), `said`
        (accuracy by the words alone), `missing`, `unscored`, `unreadable`, `predicted` (class -> images) and, but for the base,
        `gain` over the base (`difference` in points, `interval`, `p`); `collapse`: arm -> mean gain over the sets out of the domain,
        those of intensity left out where there are others; `worst`: arm -> the set of them with the least gain; `collapsed`:
        [arm, set] of every gain out of the domain whose whole interval lies below zero.

    Raises:
        SchemaError: an unknown base or set, or a set without an image that has a class; names it.
    """
    for what, name, known in (("base", base, predictions), ("in_domain", in_domain, sets)):
        if name not in known:
            raise SchemaError(f"{what}: {name!r} is unknown; allowed: {', '.join(known) or 'none is named'}")
    about: dict[str, Any] = {}
    arms: dict[str, dict[str, Any]] = {arm: {} for arm in predictions}
    for name, (records, space_name) in sets.items():
        space = SPACES[space_name]
        pairs = [(record, label) for record in records if (label := space.reference(record)) is not None]
        if not pairs:
            raise SchemaError(f"set {name!r}: none of {len(records)} references has a class in the label space {space_name!r}")
        truth = [label for _, label in pairs]
        about[name] = _about(space, len(records), truth)
        weights = draws([record.id for record, _ in pairs], RESAMPLES, seed)
        answers = {arm: _answers(said, pairs, space) for arm, said in predictions.items()}
        for arm, found in answers.items():
            arms[arm][name] = _row(found, answers[base] if arm != base else None, truth, space, weights)
    return {
        "sets": about,
        "arms": arms,
        "base": base,
        "in_domain": in_domain,
        **_collapse(about, arms, base, in_domain),
        "seed": seed,
    }


def _collapse(sets: Mapping[str, Any], arms: Mapping[str, dict[str, Any]], base: str, in_domain: str) -> dict[str, Any]:
    """`collapse`, `worst` and `collapsed` of `cross_dataset`."""
    outside = [name for name in sets if name != in_domain]
    # Levels of intensity are no emotions: a gain there must not make up for a loss here.
    felt = [name for name in outside if sets[name]["space"] != "intensity"] or outside
    gains = {arm: {n: rows[n]["gain"] for n in outside} for arm, rows in arms.items() if arm != base and outside}
    return {
        "collapse": {arm: sum(found[n]["difference"] for n in felt) / len(felt) for arm, found in gains.items()},
        "worst": {arm: min(felt, key=lambda n: found[n]["difference"]) for arm, found in gains.items()},
        "collapsed": [
            [arm, n] for arm, found in gains.items() for n in outside if found[n]["interval"] and found[n]["interval"][1] < 0
        ],
    }  # fmt: skip


def _about(space: LabelSpace, references: int, truth: Sequence[str]) -> dict[str, Any]:
    counts = {c: truth.count(c) for c in space.classes}
    return {
        "space": space.name, "map": space.about, "images": len(truth), "without_class": references - len(truth),
        "classes": counts, "chance": 100 * max(counts.values()) / len(truth),
    }  # fmt: skip


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
        hit, np.array([c == t for c, t in zip(words, truth, strict=True)]), scored if has_scores else words, missing,
        sum(c is None for c in scored) - missing if has_scores else 0, sum(c is None for c in words) - missing,
    )  # fmt: skip


def _row(
    found: _Answers, base: _Answers | None, truth: Sequence[str], space: LabelSpace, weights: np.ndarray
) -> dict[str, Any]:
    images = len(truth)
    replicates = _accuracies(found.right, weights)
    low, high = interval(replicates, images) or (None, None)
    present = [c for c in space.classes if c in truth]
    labels = np.array(truth)
    row: dict[str, Any] = {
        "accuracy": {"value": 100 * float(found.right.mean()), "low": low, "high": high},
        "macro_recall": 100 * float(np.mean([found.right[labels == c].mean() for c in present])),
        "by": "words" if found.scored is None else "scores",
        "said": 100 * float(found.said.mean()),
        "missing": found.missing, "unscored": found.unscored, "unreadable": found.unreadable,
        "predicted": {c: found.classes.count(c) for c in space.classes},
    }  # fmt: skip
    if base is not None:
        pair = (replicates, _accuracies(base.right, weights))
        row["gain"] = difference(100 * float(found.right.mean()), 100 * float(base.right.mean()), pair, images)
    return row


def _accuracies(right: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Percent in each resample, (R,)."""
    with np.errstate(invalid="ignore"):
        return 100 * (right @ weights) / weights.sum(0)


def cross_page(result: Mapping[str, Any]) -> Page:
    """What `cross_dataset` returned, as tables for the terminal and the report."""
    sets, arms, base = result["sets"], result["arms"], result["base"]
    titles = [f"{name}{' (in domain)' if name == result['in_domain'] else ''}" for name in sets]
    accuracy: list[list[Cell]] = [["most frequent class", *(about["chance"] for about in sets.values()), None, None]]
    accuracy += [
        [arm, *(Spread(**rows[name]["accuracy"]) for name in sets), result["collapse"].get(arm), _worst(result, arm)]
        for arm, rows in arms.items()
    ]
    gain: list[list[Cell]] = []
    for arm, rows in arms.items():
        if arm != base:
            gain.append([arm, *(_spread(rows[name]["gain"]) for name in sets)])
    said: list[list[Cell]] = [
        [arm, *(x for n in sets for x in (rows[n]["said"], rows[n]["unreadable"]))] for arm, rows in arms.items()
    ]
    maps: list[list[Cell]] = [[n, a["space"], a["images"], a["without_class"], a["map"]] for n, a in sets.items()]
    page = Page(
        "Across data sets",
        f"Every arm on every set, and what its training gained or lost against the untuned {base}.",
        [
            PageTable(
                "Accuracy (%)", ["arm", *titles, "collapse", "worst set"], accuracy,
                "By the class that holds most of the predicted distribution; 95 % bootstrap intervals over images. Collapse: accuracy "
                f"out of the domain minus the {base}'s, mean over those sets (without those of intensity), in points; below zero the "
                "training has cost more than it gave.",
                1,
            ),
            PageTable(f"Against the untuned {base} (points)", ["arm", *titles], gain, "Paired on the same images.", 1),
            PageTable(
                "By the words alone (%)", ["arm", *(x for n in titles for x in (n, "unreadable"))], said,
                "What the arm said, by name; an answer that is no class of the set counts as wrong.", 1,
            ),
            PageTable("Label spaces", ["set", "space", "images", "left out", "map"], maps),
        ],
        notes=_notes(result),
    )  # fmt: skip
    return page


def _worst(result: Mapping[str, Any], arm: str) -> str | None:
    """`emotion6 -15.0`."""
    name = result["worst"].get(arm)
    return None if name is None else f"{name} {result['arms'][arm][name]['gain']['difference']:+.1f}"


def _spread(gain: Mapping[str, Any]) -> Spread:
    low, high = gain["interval"] or (None, None)
    return Spread(gain["difference"], low, high)


def _notes(result: Mapping[str, Any]) -> list[str]:
    notes = []
    for arm, name in result["collapsed"]:
        (low, high), own = result["arms"][arm][name]["gain"]["interval"], result["arms"][arm][name]
        notes.append(
            f"{arm} has collapsed on {name}: {own['accuracy']['value']:.1f} % where the untuned {result['base']} has "
            f"{result['arms'][result['base']][name]['accuracy']['value']:.1f} % (difference {low:+.1f} to {high:+.1f} points)"
        )
    for name, about in result["sets"].items():
        if about["images"] == 1:
            notes.append(f"{name}: one image, so there are no intervals")
        elif sum(n > 0 for n in about["classes"].values()) == 1:
            notes.append(f"{name}: all {about['images']} images are of one class")
        for arm, rows in result["arms"].items():
            row = rows[name]
            if row["missing"]:
                notes.append(f"{arm}, {name}: {row['missing']} images without a prediction count as wrong")
            if row["unscored"]:
                notes.append(f"{arm}, {name}: {row['unscored']} predictions without usable emotion_scores count as wrong")
            if row["by"] == "words" and about["space"] != "intensity":
                notes.append(f"{arm}, {name}: no emotion_scores, judged by its words")
    return notes
