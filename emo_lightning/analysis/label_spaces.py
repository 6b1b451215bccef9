"""Label spaces of data sets, and how the eight emotions map onto each: stated here once, printed with every table that uses them.

A model of the eight answers in any of these by adding its probabilities over the emotions of a class. A reference that has no class
in a space is left out, and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from emo_lightning.core.records import EMOTIONS, INTENSITY_LEVELS, Emotion, Prediction, Reference, SchemaError, intensity_level
from emo_lightning.metrics.arrays import Array

SpaceName = Literal["eight", "ekman", "polarity", "intensity"]

_EKMAN: dict[Emotion, str] = {e: "joy" if e.polarity == "positive" else str(e) for e in EMOTIONS}
_POLARITY: dict[Emotion, str] = {e: e.polarity for e in EMOTIONS}

NEUTRAL_VALENCE = {"findingemo": 0.0, "emotion6": 5.0}
"""Source -> the middle of its valence scale: FindingEmo -3 to 3, Emotion6 1 to 9."""

PARTIAL_SOURCES = {
    "fi": "FI asked people for one emotion alone: its annotated distributions spread those who disagreed evenly over the other seven"
}
"""Source -> why a distance to its annotated distributions says less than others."""


@dataclass(frozen=True)
class LabelSpace:
    """One set of classes."""

    name: SpaceName
    """As written in an experiment."""
    classes: tuple[str, ...]
    """In a fixed order."""
    of_emotion: Mapping[Emotion, str]
    """Emotion -> class; empty for intensity, which has nothing to do with them."""
    reference: Callable[[Reference], str | None]
    """The class of a reference, None where it has none."""
    about: str
    """The map in words."""

    def from_scores(self, scores: Array) -> str:
        """The most probable class of a distribution (8,) over `EMOTIONS`."""
        totals = dict.fromkeys(self.classes, 0.0)
        for emotion, value in zip(EMOTIONS, scores, strict=True):
            totals[self.of_emotion[emotion]] += float(value)
        return max(totals, key=totals.__getitem__)

    def from_words(self, prediction: Prediction) -> str | None:
        """The class of what a model said in words, None where it said nothing that is one."""
        if self.name == "intensity":
            said = prediction.intensity
            return intensity_level(said) if said is not None and 0.5 <= said < 10.5 else None
        try:
            return self.of_emotion[Emotion.parse(prediction.emotion or "")]
        except SchemaError:
            return None


def _source_labels(record: Reference) -> Mapping[str, object]:
    found = record.provenance.get("source_labels")
    return found if isinstance(found, Mapping) else {}


def _eight(record: Reference) -> str | None:
    return None if record.emotion is None else str(record.emotion)


def _ekman(record: Reference) -> str | None:
    # Emotion6 says joy where the eight have no equal; its own word goes first.
    raw = _source_labels(record).get("emotion_raw")
    if record.source == "emotion6" and isinstance(raw, str):
        return raw if raw in _EKMAN.values() else None
    return None if record.emotion is None else _EKMAN[record.emotion]


def _polarity(record: Reference) -> str | None:
    valence, neutral = _source_labels(record).get("valence"), NEUTRAL_VALENCE.get(record.source or "")
    if neutral is not None and isinstance(valence, int | float):
        return None if valence == neutral else "positive" if valence > neutral else "negative"
    return None if record.emotion is None else _POLARITY[record.emotion]


def _intensity(record: Reference) -> str | None:
    if record.intensity_level is not None:
        return record.intensity_level
    return None if record.intensity is None else intensity_level(record.intensity)


SPACES: dict[SpaceName, LabelSpace] = {
    space.name: space
    for space in (
        LabelSpace("eight", tuple(map(str, EMOTIONS)), {e: str(e) for e in EMOTIONS}, _eight, "the eight emotions, by name"),
        LabelSpace(
            "ekman",
            ("anger", "disgust", "fear", "joy", "sadness"),
            _EKMAN,
            _ekman,
            "Ekman's without surprise: amusement, awe, contentment, excitement = joy; anger, disgust, fear, sadness by name; "
            "images of surprise or without a most voted class are left out",
        ),
        LabelSpace(
            "polarity",
            ("negative", "positive"),
            _POLARITY,
            _polarity,
            "amusement, awe, contentment, excitement = positive; anger, disgust, fear, sadness = negative; of FindingEmo and Emotion6 "
            "the sign of the valence from the middle of its scale",
        ),
        LabelSpace(
            "intensity",
            tuple(INTENSITY_LEVELS),
            {},
            _intensity,
            "said intensity 1–3 = low, 4–7 = medium, 8–10 = high; of FindingEmo the leaf of Plutchik's wheel",
        ),
    )
}
