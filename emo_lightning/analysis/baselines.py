"""Answers given without looking, that is, without the image: what a value of Table 5 is worth is its distance from these.

Two of them are none: `TextOnly` and `TripletOnly` read the reference's own words, so they are upper readings, never floors (`UPPER_READINGS`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from emo_lightning.core.errors import InputError
from emo_lightning.core.records import EMOTIONS, TRIPLET_PARTS, PredictedObject, Prediction, Reference
from emo_lightning.metrics.spelling import WHOLE_TRIPLET, casefolded

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator
    from sklearn.pipeline import Pipeline

MEAN_BOX = "constant, mean box"
MEDIAN_BOX = "constant, median box"
SHUFFLED = "shuffled labels"
TEXT_ONLY = "text-only"
TRIPLET_ONLY = "triplet-only"
UPPER_READINGS = frozenset({TEXT_ONLY, TRIPLET_ONLY})
"""Those that read the annotation itself."""


class BaselineError(InputError):
    """These records do not allow a baseline; the table says so in its place."""


def size_of(record: Reference) -> tuple[int, int] | None:
    """(width, height); None where they are not known, which `table5` refuses wherever a box is scored."""
    return None if record.width is None or record.height is None else (record.width, record.height)


class Baseline(Protocol):
    """Answers for references without their images."""

    @property
    def inapplicable(self) -> tuple[str, ...]:
        """Rows of Table 5 that the baseline has no answer to."""
        ...

    def answers(self, records: Sequence[Reference]) -> list[Prediction]:
        """One answer per record."""
        ...

    def describe(self) -> dict[str, object]:
        """What it answers, for the page."""
        ...


class ConstantAnswer:
    """The same emotion, intensity, description and relative box for every image.

    Args:
        records: where the constants come from: majority emotion, median intensity, most frequent description (ties: the
            first in the schema's or the file's order), and the mean or median of the subject's boxes, each coordinate
            divided by its image's width or height.
        center: "mean" or "median", of the boxes. With the mean the triplet's parts are each the most frequent one, with the median
            the triplet is the most frequent whole one: neither is the better guess in all rows.
    """

    inapplicable: tuple[str, ...] = ()

    def __init__(self, records: Sequence[Reference], center: Literal["mean", "median"]) -> None:
        if center not in ("mean", "median"):
            msg = f"center={center!r}; allowed: 'mean', 'median'"
            raise ValueError(msg)
        self.emotion = _most_common(sorted((r.emotion for r in records if r.emotion), key=EMOTIONS.index))
        self.description = _most_common(r.description for r in records if r.description)
        parts = [_most_common(text for r in records if (text := getattr(r, part))) for part in TRIPLET_PARTS]
        whole = Counter(r.triplet for r in records if r.triplet).most_common(1)
        self.triplet = dict(zip(TRIPLET_PARTS, parts, strict=True))
        if center == "median" and whole:
            self.triplet = {part: getattr(whole[0][0], part) for part in TRIPLET_PARTS}
        intensities = [r.intensity for r in records if r.intensity]
        self.intensity = int(np.floor(np.median(intensities) + 0.5)) if intensities else None
        boxes = [np.divide(o.bbox, size * 2) for r in records if (size := size_of(r)) is not None for o in r.primary_objects]
        self.box = (np.mean(boxes, axis=0) if center == "mean" else np.median(boxes, axis=0)) if boxes else None

    def __call__(self, record: Reference) -> Prediction:
        """The answer for one image: only its size is looked at, to scale the box."""
        objects = []
        if self.box is not None and (size := size_of(record)) is not None:
            x1, y1, x2, y2 = map(float, self.box)
            w, h = size
            objects = [PredictedObject(bbox=(x1 * w, y1 * h, x2 * w, y2 * h))]
        return Prediction(
            id=record.id,
            description=self.description,
            background=self.triplet["background"],
            attribute=self.triplet["attribute"],
            subject=self.triplet["subject"],
            emotion=self.emotion,
            intensity=self.intensity,
            objects=objects,
        )

    def answers(self, records: Sequence[Reference]) -> list[Prediction]:
        """As `Baseline.answers`."""
        return [self(record) for record in records]

    def describe(self) -> dict[str, object]:
        """The constants themselves, for the page."""
        box = None if self.box is None else [round(float(v), 4) for v in self.box]
        words = {"description": self.description, "triplet": " - ".join(text or "?" for text in self.triplet.values())}
        return {"emotion": self.emotion, "intensity": self.intensity, **words, "relative_box": box}


class ShuffledLabels:
    """The whole annotation of another image, drawn by chance: the labels' distribution is right, the image plays no part.

    Args:
        records: where the annotations come from.
        seed: which annotation an image gets follows from it and the image's id.

    Raises:
        BaselineError: fewer than two images.
    """

    inapplicable: tuple[str, ...] = ()

    def __init__(self, records: Sequence[Reference], seed: int = 0) -> None:
        if len({record.id for record in records}) < 2:
            msg = "shuffled labels need annotations of two images"
            raise BaselineError(msg)
        self.records, self.seed = records, seed

    def answers(self, records: Sequence[Reference]) -> list[Prediction]:
        """As `Baseline.answers`; boxes keep their place relative to the image."""
        return [self._answer(record) for record in records]

    def _answer(self, record: Reference) -> Prediction:
        digest = hashlib.blake2b(f"{self.seed}\0{record.id}".encode(), digest_size=8).digest()
        at = int.from_bytes(digest, "little") % len(self.records)
        while (other := self.records[at]).id == record.id:
            at = (at + 1) % len(self.records)
        here, there = size_of(record), size_of(other)
        boxes = []
        if here is not None and there is not None:
            x, y = here[0] / there[0], here[1] / there[1]
            boxes = [(x1 * x, y1 * y, x2 * x, y2 * y) for x1, y1, x2, y2 in (o.bbox for o in other.primary_objects)]
        return Prediction(
            id=record.id,
            description=other.description,
            background=other.background,
            attribute=other.attribute,
            subject=other.subject,
            emotion=other.emotion,
            intensity=other.intensity,
            intensity_level=other.intensity_level,
            objects=[PredictedObject(bbox=box) for box in boxes],
        )

    def describe(self) -> dict[str, object]:
        """As `Baseline.describe`."""
        return {"answer": "the annotation of another image, drawn by chance", "images": len(self.records), "seed": self.seed}


class _Reader:
    """Emotion and intensity read from the reference's own words: logistic and ridge regression over them.

    Args:
        records: to learn from.
        words: the words of a record, None where it has none.
        vectorizer: makes what turns words into numbers.
        missing: what a record without words lacks, for the message.

    Raises:
        BaselineError: fewer than two emotions among the records that have words.
    """

    inapplicable = (
        *("bbox_iou", "bbox_center_dist", "f1", "clip_score", "clip_triplet", "clip_image_text"),
        *(f"{part}{ending}" for part in (*TRIPLET_PARTS, WHOLE_TRIPLET) for ending in ("", "_similar")),
    )
    answer: str

    def __init__(
        self,
        records: Sequence[Reference],
        words: Callable[[Reference], str | None],
        vectorizer: Callable[[], BaseEstimator],
        missing: str,
    ) -> None:
        from sklearn.linear_model import LogisticRegression, Ridge
        from sklearn.pipeline import make_pipeline

        def fitted(model: BaseEstimator, pairs: Sequence[tuple[str, object]]) -> Pipeline:
            return make_pipeline(vectorizer(), model).fit([text for text, _ in pairs], [label for _, label in pairs])

        self.words = words
        texts = [(text, r) for r in records if (text := words(r))]
        named = [(text, r.emotion.value) for text, r in texts if r.emotion]
        rated = [(text, r.intensity) for text, r in texts if r.intensity]
        if len({label for _, label in named}) < 2:
            msg = f"the training set has fewer than two emotions among its records with a {missing}"
            raise BaselineError(msg)
        self.emotion = fitted(LogisticRegression(max_iter=300), named)
        self.intensity = fitted(Ridge(), rated) if rated else None
        self.learned = {"emotion": len(named), "intensity": len(rated)}

    def answers(self, records: Sequence[Reference]) -> list[Prediction]:
        """As `Baseline.answers`; a record without words gets no emotion and no intensity."""
        texts = {i: text for i, record in enumerate(records) if (text := self.words(record))}
        emotions: dict[int, str] = {}
        intensities: dict[int, float] = {}
        if texts:
            emotions = {i: str(emotion) for i, emotion in zip(texts, self.emotion.predict([*texts.values()]), strict=True)}
            if self.intensity is not None:
                rated = np.clip(np.floor(self.intensity.predict([*texts.values()]) + 0.5), 1, 10)
                intensities = {i: float(value) for i, value in zip(texts, rated, strict=True)}
        return [
            Prediction(id=record.id, emotion=emotions.get(i), intensity=intensities.get(i)) for i, record in enumerate(records)
        ]

    def describe(self) -> dict[str, object]:
        """As `Baseline.describe`."""
        return {"answer": self.answer, "learned_from": self.learned}


class TextOnly(_Reader):
    """Emotion and intensity read from the reference's own description, by a linear model over its words.

    It reads the annotation, so it is no competitor and no answer without looking, but an upper reading: it says how much of the label the
    words alone give away. TF-IDF over words and pairs of words; logistic regression for the emotion, ridge regression for the intensity.

    Args:
        records: to learn from.

    Raises:
        BaselineError: fewer than two emotions among the records that have a description.
    """

    answer = "a linear model over the words of the reference's own description"

    def __init__(self, records: Sequence[Reference]) -> None:
        super().__init__(records, lambda record: record.description, self._vectorizer, "description")

    @staticmethod
    def _vectorizer() -> BaseEstimator:
        from sklearn.feature_extraction.text import TfidfVectorizer

        return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+", max_features=_MOST_WORDS)


class TripletOnly(_Reader):
    """Emotion and intensity read from the reference's own triplet: what a model could say that names all three parts without a mistake.

    An upper reading as `TextOnly` is, and the ceiling for a model that learns from the same labels, with their mistakes: a linear model over
    the parts and their pairs. Where two parts act together and the third adds to them, as in the drawn world, that is the form of the
    truth, so it also answers combinations that training never showed.

    Args:
        records: to learn from.

    Raises:
        BaselineError: fewer than two emotions among the records that have a whole triplet.
    """

    answer = "a linear model over background, attribute and subject of the reference, and their pairs"

    def __init__(self, records: Sequence[Reference]) -> None:
        super().__init__(records, _triplet_line, self._vectorizer, "whole triplet")

    @staticmethod
    def _vectorizer() -> BaseEstimator:
        from sklearn.feature_extraction.text import CountVectorizer

        return CountVectorizer(analyzer=_parts_and_pairs, binary=True, max_features=_MOST_WORDS)


_MOST_WORDS = 50_000
"""Words, or parts and pairs, that a reader knows: the most frequent ones."""


def _triplet_line(record: Reference) -> str | None:
    """The parts of a triplet, a line each; None where one is missing or blank."""
    parts = [casefolded(getattr(record, part)) for part in TRIPLET_PARTS]
    return "\n".join(parts) if all(parts) else None


def _parts_and_pairs(line: str) -> list[str]:
    """What a `_triplet_line` holds, each with its place, alone and two by two."""
    parts = [f"{place}={text}" for place, text in zip(TRIPLET_PARTS, line.split("\n"), strict=True)]
    return [*parts, *("\n".join(pair) for pair in combinations(parts, 2))]


def all_baselines(
    references: Sequence[Reference], train: Sequence[Reference] | None, seed: int
) -> tuple[dict[str, Baseline], dict[str, str]]:
    """Every baseline that these records allow, by name, and why the others are missing.

    Args:
        references: what is scored.
        train: where the answers come from; None takes the references themselves, which flatters the constants.
        seed: of the shuffled labels.
    """
    source = train if train is not None else references
    found: dict[str, Baseline] = {MEAN_BOX: ConstantAnswer(source, "mean"), MEDIAN_BOX: ConstantAnswer(source, "median")}
    omitted: dict[str, str] = {}
    try:
        found[SHUFFLED] = ShuffledLabels(source, seed)
    except BaselineError as error:
        omitted[SHUFFLED] = str(error)
    readers: dict[str, Callable[[Sequence[Reference]], Baseline]] = {TEXT_ONLY: TextOnly, TRIPLET_ONLY: TripletOnly}
    for name, reader in readers.items():
        try:
            if train is None:
                msg = "it learns from a training set, and none was given"
                raise BaselineError(msg)
            found[name] = reader(train)
        except BaselineError as error:
            omitted[name] = str(error)
    return found, omitted


def _most_common(values: Iterable[str]) -> str | None:
    # Counter keeps first-seen order among equals.
    common = Counter(values).most_common(1)
    return str(common[0][0]) if common else None
