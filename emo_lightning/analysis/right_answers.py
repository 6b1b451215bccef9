"""Which images of a data set a model answers rightly, in the label space in which they are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from emo_lightning.analysis.label_spaces import SPACES, LabelSpace, SpaceName
from emo_lightning.analysis.references import check_distinct, require
from emo_lightning.analysis.scored import probabilities
from emo_lightning.core.records import Prediction, Reference, SchemaError
from emo_lightning.metrics.arrays import Flags


@dataclass(frozen=True)
class JudgedImages:
    """Those of a set by which models are judged: they have a class and were not trained on."""

    space: LabelSpace
    records: list[Reference]
    truth: list[str]
    """Class of each."""
    unseen: int
    """Images that were not trained on, those without a class included."""

    @property
    def ids(self) -> list[str]:
        """Of the images."""
        return [record.id for record in self.records]


@dataclass(frozen=True)
class RightAnswers:
    """Which images of a set a model has right."""

    scored: Flags | None
    """(N,): right by the most probable class; None where no prediction has a distribution, or the space needs words."""
    said: Flags
    """(N,): right by the words."""
    classes: list[str | None]
    """What counts: by the distribution where there is one, else by the words."""
    missing: int
    unscored: int
    unreadable: int

    @property
    def right(self) -> Flags:
        """(N,): by what counts."""
        return self.said if self.scored is None else self.scored


def judged_sets(
    sets: Mapping[str, tuple[Sequence[Reference], SpaceName]], trained: Set[str] = frozenset()
) -> dict[str, JudgedImages]:
    """By which images of several sets models are judged.

    Args:
        sets: name -> references and label space.
        trained: `Reference.image_hashes` of the images that were trained on, which are left out.

    Raises:
        SchemaError: no image of a set is left, an image does not say of which bytes it is, or two sets have other pictures under one id.
    """
    if trained:
        every = (record for records, _ in sets.values() for record in records)
        require(every, ["sha256"], "by it images that were trained on are left out")
    check_distinct({name: records for name, (records, _) in sets.items()})
    return {name: _judged_images(name, records, space, trained) for name, (records, space) in sets.items()}


def _judged_images(name: str, records: Sequence[Reference], space: SpaceName, trained: Set[str]) -> JudgedImages:
    labels = SPACES[space].among(records)
    unseen = [record for record in records if trained.isdisjoint(record.image_hashes)]
    pairs = [(record, label) for record in unseen if (label := labels.reference(record)) is not None]
    if not pairs:
        seen = f" that was not trained on ({len(records) - len(unseen)} were)" if len(unseen) < len(records) else ""
        msg = f"set {name!r}: none of {len(records)} references{seen} has a class in the label space {space!r}"
        raise SchemaError(msg)
    return JudgedImages(labels, [record for record, _ in pairs], [label for _, label in pairs], len(unseen))


def right_answers(said: Mapping[str, Prediction], judged: JudgedImages) -> RightAnswers:
    """Judge a model's predictions, by id."""
    space = judged.space
    words: list[str | None] = []
    scored: list[str | None] = []
    missing = 0
    for record in judged.records:
        prediction = said.get(record.id)
        missing += prediction is None
        words.append(None if prediction is None else space.from_words(prediction))
        scores = probabilities(prediction) if prediction is not None and space.of_emotion else None
        scored.append(None if scores is None else space.from_scores(scores))
    has_scores = any(c is not None for c in scored)
    hit = np.array([c == t for c, t in zip(scored, judged.truth, strict=True)]) if has_scores else None
    return RightAnswers(
        hit,
        np.array([c == t for c, t in zip(words, judged.truth, strict=True)]),
        scored if has_scores else words,
        missing,
        sum(c is None for c in scored) - missing if has_scores else 0,
        sum(c is None for c in words) - missing,
    )
