"""The labels of an image: eight emotions and three levels of intensity. Paper: section 3.1.2."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from emo_lightning.core.errors import InputError

Polarity = Literal["positive", "negative"]
POLARITIES: tuple[Polarity, ...] = ("positive", "negative")


class SchemaError(InputError):
    """A record does not follow the contract; the message names the place, the key, what was found and what is allowed."""


class Emotion(StrEnum):
    """Mikels' eight categories (paper section 3.1.2), in the order that every vector over emotions uses."""

    AMUSEMENT = "amusement"
    AWE = "awe"
    CONTENTMENT = "contentment"
    EXCITEMENT = "excitement"
    ANGER = "anger"
    DISGUST = "disgust"
    FEAR = "fear"
    SADNESS = "sadness"

    @property
    def position(self) -> int:
        """Position in vectors over emotions, 0–7."""
        return EMOTIONS.index(self)

    @property
    def polarity(self) -> Polarity:
        """Mikels' four positive and four negative categories."""
        return "positive" if self.position < 4 else "negative"

    @classmethod
    def parse(cls, text: str) -> Emotion:
        """Map a label by its name (case and surrounding blanks do not matter).

        Raises:
            SchemaError: the name is not one of the eight.
        """
        try:
            return cls(text.strip().lower())
        except (ValueError, AttributeError):
            msg = f"unknown emotion {text!r}; allowed: {', '.join(EMOTIONS)}"
            raise SchemaError(msg) from None


EMOTIONS: tuple[Emotion, ...] = tuple(Emotion)
NUM_EMOTIONS = len(EMOTIONS)


def named_emotion(word: str | None) -> Emotion | None:
    """Which of the eight a word is that a model has said; None for any other, and for none."""
    try:
        return None if word is None else Emotion.parse(word)
    except SchemaError:
        return None


NO_EMOTION = -1
"""Class index of an image without an emotion, where the others have their position in `EMOTIONS`."""

INTENSITY_LOWEST, INTENSITY_HIGHEST = 1, 10

IntensityLevel = Literal["low", "medium", "high"]
INTENSITY_LEVELS: tuple[IntensityLevel, ...] = ("low", "medium", "high")


def intensity_level(intensity: float) -> IntensityLevel:
    """Three-level intensity: low 1–3, medium 4–7, high 8–10 (fractions belong to the nearest whole intensity)."""
    if not 0.5 <= intensity < 10.5:
        msg = f"intensity {intensity} is outside 1–10"
        raise SchemaError(msg)
    whole = int(intensity + 0.5)
    return "low" if whole <= 3 else "medium" if whole <= 7 else "high"
