"""What a model says of one image, as typed results: its words and its probe kept apart, and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from emo_lightning.core.emotions import named_emotion
from emo_lightning.core.records import (
    EMOTIONS,
    Box,
    Emotion,
    IntensityLevel,
    Mask,
    Prediction,
    SchemaError,
    Triplet,
    intensity_level,
)

ProbeAgreement = Literal["agree", "differ", "no emotion said", "no probe"]
"""Whether the words and the probe name the same emotion. `no emotion said`: the words name none of the eight."""


@dataclass(frozen=True)
class Region:
    """Where the model points."""

    phrase: str | None
    """What it calls it."""
    box: Box
    """(x1, y1, x2, y2) in pixels of the original image, upright; it may leave the image, as it was said."""
    mask: Mask | None = None
    """Its pixels, where masks were asked for."""


@dataclass(frozen=True)
class Said:
    """What the language model's words say."""

    description: str | None
    background: str | None
    attribute: str | None
    subject: str | None
    emotion: str | None
    """The word, as it was said; it need not be one of the eight."""
    intensity: float | None
    """1–10, as it was said."""
    regions: tuple[Region, ...]
    """Its boxes."""
    distribution: Mapping[Emotion, float] | None = None
    """What it would have said at the place of the word, over the eight; not calibrated. None where its questions have no such place."""

    @property
    def triplet(self) -> Triplet | None:
        """Background, attribute and subject, where it named all three."""
        return Triplet.of(self.background, self.attribute, self.subject)

    @property
    def category(self) -> Emotion | None:
        """Which of the eight the word is; None for any other."""
        return named_emotion(self.emotion)

    @property
    def confidence(self) -> float | None:
        """Its own probability of the emotion that it said, and of no other."""
        return None if self.distribution is None or self.category is None else self.distribution[self.category]

    @property
    def level(self) -> IntensityLevel | None:
        """Of the intensity: low, medium or high; None where it is missing or off the scale."""
        try:
            return None if self.intensity is None else intensity_level(self.intensity)
        except SchemaError:
            return None


@dataclass(frozen=True)
class Probed:
    """What the linear probe on the embedding says."""

    distribution: Mapping[Emotion, float]
    """Over the eight; at the temperature that was fitted on validation images, where one was."""
    calibrated: bool
    """Whether one was, and the image is not unlike those: its probabilities are frequencies. Else they are an order, no more."""
    conformal: tuple[Emotion, ...] | None = None
    """The emotions that the true one is among with the probability `coverage`, most probable first; None where nothing was fitted. Of an
    image that is unlike what the model was trained on, all eight: no smaller set is sure of it."""
    coverage: float | None = None
    """Of images like those of the validation set, on average: 0–1. 1 where the set is all eight because the image is unlike them."""

    @property
    def emotion(self) -> Emotion:
        """The most probable."""
        return max(self.distribution, key=self.distribution.__getitem__)

    @property
    def confidence(self) -> float:
        """The probability of `emotion`."""
        return self.distribution[self.emotion]


@dataclass(frozen=True)
class Point:
    """Where the affect head puts the embedding, each about -1 to 1; None where it was not trained for that."""

    valence: float | None = None
    arousal: float | None = None
    dominance: float | None = None

    def as_json(self) -> dict[str, float]:
        """Those that are known, by name."""
        return {name: round(value, 6) for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Unlike:
    """How far an image is from those that the model was trained on."""

    score: float
    """Its distance, as `models.spread.TrainingSpread` gives it: about 1 on the training images."""
    threshold: float
    """The distance that counts as far, set on validation images."""
    false_alarms: float
    """Share of images like the validation set's that are beyond it, at most (on average): 0–1."""

    @property
    def is_unlike(self) -> bool:
        """Whether the image is unlike what the model was trained on; nothing that it says of such a one has been measured."""
        return self.score > self.threshold

    @property
    def sentence(self) -> str:
        """For people."""
        if not self.is_unlike:
            return "like what this model was trained on"
        return "unlike what this model was trained on: take all that follows for a guess"

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {
            "is_unlike": self.is_unlike,
            "score": _rounded(self.score),
            "threshold": _rounded(self.threshold),
            "false_alarms": self.false_alarms,
            "sentence": self.sentence,
        }


@dataclass(frozen=True, eq=False)
class Explanation:
    """What the model says of one image."""

    said: Said
    """Triplet, boxes, emotion and intensity, in the language model's words."""
    probe: Probed | None
    """The emotion as the probe reads it off the embedding; None without a probe."""
    des: NDArray[np.float32]
    """The embedding, (des_dim,)."""
    prediction: Prediction
    """The words as a predictions file has them, with the replies in `provenance`: what `emo eval` scores."""
    unlike: Unlike | None = None
    """Whether the image is unlike what the model was trained on; None: not known, as the folder does not hold what it was trained on."""
    point: Point | None = None
    """Valence, arousal and dominance as the affect head reads them off the embedding; None without one."""

    @property
    def id(self) -> str:
        """Of the image."""
        return self.prediction.id

    @property
    def agreement(self) -> ProbeAgreement:
        """Whether words and probe name the same emotion."""
        if self.probe is None:
            return "no probe"
        if self.said.category is None:
            return "no emotion said"
        return "agree" if self.said.category is self.probe.emotion else "differ"

    @property
    def distribution(self) -> dict[str, float] | None:
        """The probe's, by name; None without a probe."""
        return None if self.probe is None else {str(e): p for e, p in self.probe.distribution.items()}

    def with_masks(self, masks: Sequence[Mask | None]) -> Explanation:
        """The same with a mask for each region."""
        regions = tuple(replace(region, mask=mask) for region, mask in zip(self.said.regions, masks, strict=True))
        return replace(self, said=replace(self.said, regions=regions))

    def as_json(self, des: bool = True) -> dict[str, object]:
        """One object: the keys of a predictions file, as the words say, then `said`, `probe`, `agreement`, `unlike`, `des`.

        An emotion and a confidence that stand in one object belong together. The words name no valence, arousal or dominance: these are the
        affect head's, and are there where it gives them.

        Args:
            des: with the embedding's numbers.
        """
        words = self.prediction.model_dump(mode="json", exclude={"des"})
        for found, region in zip(words["objects"], self.said.regions, strict=True):
            if region.mask is not None:
                found["mask"] = region.mask.model_dump(mode="json")
        probe = self.probe
        return {
            **words,
            "emotion_scores": _named(self.said.distribution),
            "confidence": _rounded(self.said.confidence),
            "intensity_level": self.said.level,
            **({} if self.point is None else self.point.as_json()),
            "said": {"emotion": self.said.emotion, "confidence": _rounded(self.said.confidence)},
            "probe": None
            if probe is None
            else {
                "emotion": str(probe.emotion),
                "confidence": _rounded(probe.confidence),
                "calibrated": probe.calibrated,
                "distribution": _named(probe.distribution),
                "conformal_set": None if probe.conformal is None else [str(emotion) for emotion in probe.conformal],
                "coverage": probe.coverage,
            },
            "agreement": self.agreement,
            "unlike": None if self.unlike is None else self.unlike.as_json(),
            **({"des": [float(x) for x in self.des]} if des else {}),
        }


def said_of(prediction: Prediction, scores: Sequence[float] | None) -> Said:
    """The words of a prediction.

    Args:
        prediction: of a model's answers.
        scores: its own distribution in the order of `EMOTIONS`, where it is known.
    """
    return Said(
        description=prediction.description,
        background=prediction.background,
        attribute=prediction.attribute,
        subject=prediction.subject,
        emotion=prediction.emotion,
        intensity=prediction.intensity,
        regions=tuple(Region(one.phrase, one.bbox) for one in prediction.objects),
        distribution=None if scores is None else by_emotion(scores),
    )


def by_emotion(values: Sequence[float]) -> dict[Emotion, float]:
    """Eight values in the order of `EMOTIONS`, by emotion."""
    return dict(zip(EMOTIONS, values, strict=True))


def _named(distribution: Mapping[Emotion, float] | None) -> dict[str, float] | None:
    return None if distribution is None else {str(emotion): round(value, 6) for emotion, value in distribution.items()}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
