"""Label spaces of data sets, and how the eight emotions map onto each: stated here once, printed with every table that uses them.

A model of the eight answers in any of these by adding its probabilities over the emotions of a class, or by a word that is one. A reference
that has no class in a space is left out, and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from emo_lightning.core.records import EMOTIONS, INTENSITY_LEVELS, Emotion, Prediction, Reference, SchemaError, intensity_level
from emo_lightning.metrics.arrays import Array

SpaceName = Literal["eight", "ekman", "polarity", "intensity", "unbiasedemo-6", "eemo-7", "webemo-7", "webemo-25"]

_EKMAN: dict[Emotion, str] = {e: "joy" if e.polarity == "positive" else str(e) for e in EMOTIONS}
_POLARITY: dict[Emotion, str] = {e: e.polarity for e in EMOTIONS}
_PARROTT: dict[Emotion, tuple[str, ...]] = {
    Emotion.AMUSEMENT: ("cheerfulness", "joy"),
    Emotion.AWE: ("joy",),
    Emotion.CONTENTMENT: ("joy",),
    Emotion.EXCITEMENT: ("zest", "joy"),
    Emotion.ANGER: ("rage",),
    Emotion.DISGUST: ("anger",),
    Emotion.FEAR: ("horror",),
    Emotion.SADNESS: (),
}
"""Where each of the eight stands in Parrott's tree, from the leaves up, if it has no place of its own name; awe, which the tree has not, is
with joy as in every space here. WebEmo and UnbiasedEmo follow the tree."""
_PLEASANT_WORDS = ("joy", "love")
_WORDS_OF_OTHERS = (*_PLEASANT_WORDS, "surprise", "neutral")
"""Words of sources that are none of the eight. They go before whatever label an image has."""
_NOT_FELT = {
    "findingemo": "its words say what people in the picture express",
    "fi": "its word is the one that people were asked about, whether they agreed or not",
}
"""Source -> why its own word (`emotion_raw`) is not what people felt."""

NEUTRAL_VALENCE = {"findingemo": 0.0, "emotion6": 5.0}
"""Source -> the middle of its valence scale, for records that have the number alone: they were made before there were ratings."""

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
    """In a fixed order; none, where they are those that the records name (`among`)."""
    of_emotion: Mapping[Emotion, str]
    """Emotion -> class, of the emotions that have one; empty for intensity, which has nothing to do with them."""
    reference: Callable[[Reference], str | None]
    """The class of a reference, None where it has none."""
    about: str
    """The map in words."""
    task: str = ""
    """The task of a suite whose candidates are the classes."""

    def among(self, records: Iterable[Reference]) -> LabelSpace:
        """The space with its classes: those that the suite asked of these images, where it has none of its own."""
        if not self.task:
            return self
        found: set[str] = set()
        for record in records:
            found.update(_candidates(record, self.task), filter(None, [_task_words(record).get(self.task)]))
        named = {e: next((w for w in (str(e), *_PARROTT[e]) if w in found), None) for e in EMOTIONS}
        return replace(
            self, classes=tuple(sorted(found)), of_emotion={e: word for e, word in named.items() if word is not None}
        )

    def from_scores(self, scores: Array) -> str:
        """The most probable class of a distribution (8,) over `EMOTIONS`."""
        totals = dict.fromkeys(self.classes, 0.0)
        for emotion, value in zip(EMOTIONS, scores, strict=True):
            if (name := self.of_emotion.get(emotion)) is not None:
                totals[name] += float(value)
        return max(totals, key=totals.__getitem__)

    def from_words(self, prediction: Prediction) -> str | None:
        """The class of what a model said in words, None where it said nothing that is one."""
        if self.name == "intensity":
            said = prediction.intensity
            return intensity_level(said) if said is not None and 0.5 <= said < 10.5 else None
        word = (prediction.emotion or "").strip().lower()
        if word in self.classes:
            return word
        try:
            return self.of_emotion.get(Emotion.parse(word))
        except SchemaError:
            return None


def _source_labels(record: Reference) -> Mapping[str, object]:
    found = record.provenance.get("source_labels")
    return found if isinstance(found, Mapping) else {}


def _task_words(record: Reference) -> dict[str, str]:
    """What VECBench's tasks say of an image, by the task."""
    attributes = _source_labels(record).get("attributes")
    tasks = attributes.get("tasks") if isinstance(attributes, Mapping) else None
    return {str(k): v for k, v in tasks.items() if isinstance(v, str)} if isinstance(tasks, Mapping) else {}


def _candidates(record: Reference, task: str) -> Iterator[str]:
    questions = _source_labels(record).get("questions")
    for question in questions if isinstance(questions, list) else []:
        if isinstance(question, Mapping) and question.get("task") == task and isinstance(question.get("candidates"), list):
            yield from (str(one).strip().lower() for one in question["candidates"])


def _felt_words(record: Reference) -> list[str]:
    """The source's own words for what people felt, the narrower first."""
    if record.source in _NOT_FELT:
        return []
    raw = _source_labels(record).get("emotion_raw")
    return [*([raw.strip().lower()] if isinstance(raw, str) else []), *_task_words(record).values()]


def _eight(record: Reference) -> str | None:
    return None if record.emotion is None else str(record.emotion)


def _by_word(classes: Sequence[str], of_emotion: Mapping[Emotion, str], record: Reference) -> str | None:
    """By the source's own word where that is a class, else by the label; a source's word that the eight have no equal of is never another."""
    words = _felt_words(record)
    if (own := next((word for word in words if word in classes), None)) is not None:
        return own
    if record.emotion is None or any(word in _WORDS_OF_OTHERS for word in words):
        return None
    return of_emotion.get(record.emotion)


def _by_task(task: str, record: Reference) -> str | None:
    return _task_words(record).get(task)


def _polarity(record: Reference) -> str | None:
    """By what people said of the valence, by the word of a source for it, or by the emotion."""
    labels = _source_labels(record)
    raw, neutral = labels.get("valence"), NEUTRAL_VALENCE.get(record.source or "")
    if record.valence is not None:
        return _sign(record.valence.centred)
    if neutral is not None and isinstance(raw, int | float):
        return _sign(raw - neutral)
    if (level := labels.get("valence_level")) in _POLARITY.values():
        return str(level)
    if record.emotion is not None:
        return _POLARITY[record.emotion]
    return "positive" if any(word in _PLEASANT_WORDS for word in _felt_words(record)) else None


def _sign(value: float) -> str | None:
    # The middle of a scale of whole numbers may be missed by rounding.
    return None if abs(value) < 1e-9 else "positive" if value > 0 else "negative"


def _intensity(record: Reference) -> str | None:
    if record.intensity_level is not None:
        return record.intensity_level
    return None if record.intensity is None else intensity_level(record.intensity)


def _of_words(name: SpaceName, classes: tuple[str, ...], of_emotion: Mapping[Emotion, str], about: str) -> LabelSpace:
    return LabelSpace(name, classes, of_emotion, partial(_by_word, classes, of_emotion), about)


def _of_task(name: SpaceName, task: str, about: str) -> LabelSpace:
    return LabelSpace(name, (), {}, partial(_by_task, task), about, task)


_UNBIASED = ("anger", "fear", "joy", "love", "sadness", "surprise")
_FOUR_JOYS = "amusement, awe, contentment, excitement = joy"
_IN_THE_TREE = (
    "by name, else by the next place up in Parrott's tree that is asked for: amusement = cheerfulness or joy, excitement = zest or joy, "
    "contentment, awe = joy, anger = rage, disgust = anger, fear = horror; an answer without a place there counts as wrong"
)

SPACES: dict[SpaceName, LabelSpace] = {
    space.name: space
    for space in (
        LabelSpace("eight", tuple(map(str, EMOTIONS)), {e: str(e) for e in EMOTIONS}, _eight, "the eight emotions, by name"),
        _of_words(
            "ekman",
            ("anger", "disgust", "fear", "joy", "sadness"),
            _EKMAN,
            f"Ekman's without surprise: {_FOUR_JOYS}; anger, disgust, fear, sadness by name; "
            "images of surprise, love or nothing, or without a most voted class, are left out",
        ),
        LabelSpace(
            "polarity",
            ("negative", "positive"),
            _POLARITY,
            _polarity,
            "amusement, awe, contentment, excitement, and a source's joy and love = positive; anger, disgust, fear, sadness = negative; where "
            "people rated the valence its sign from the middle of their scale; where a source says positive or negative itself, that",
        ),
        LabelSpace(
            "intensity",
            tuple(INTENSITY_LEVELS),
            {},
            _intensity,
            "said intensity 1–3 = low, 4–7 = medium, 8–10 = high; of FindingEmo the leaf of Plutchik's wheel",
        ),
        _of_words(
            "unbiasedemo-6",
            _UNBIASED,
            {e: str(e) if str(e) in _UNBIASED else _PARROTT[e][-1] for e in EMOTIONS},
            f"UnbiasedEmo's six: {_FOUR_JOYS}; disgust = anger, as in Parrott's tree; anger, fear, sadness by name; "
            "no answer of the eight is love or surprise",
        ),
        _of_words(
            "eemo-7",
            ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise"),
            _EKMAN,
            f"EEmo-Bench's seven: {_FOUR_JOYS}; anger, disgust, fear, sadness by name; no answer of the eight is neutral or surprise",
        ),
        _of_task("webemo-7", "WebEmo-7", f"WebEmo's seven, as VECBench's candidates have them: {_IN_THE_TREE}"),
        _of_task("webemo-25", "WebEmo-25", f"WebEmo's twenty-five, as VECBench's candidates have them: {_IN_THE_TREE}"),
    )
}
