"""What annotators and the critic must answer, as pydantic models."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from data_prep.provider.reply_schema import Reply
from emo_lightning.core.records import Emotion, IntensityLevel

FieldVerdict = Literal["valid", "revisable"]
Overall = Literal["valid", "revisable", "discarded"]

CRITIQUED_FIELDS = ("description", "triplet", "emotion", "intensity")
"""What the critic judges, each on its own."""


def _no_boolean(value: object) -> object:
    if isinstance(value, bool):
        msg = "a boolean is no number"
        raise ValueError(msg)
    return value


class EmotionVote(Reply):
    """An emotion and how clear it is (0–1)."""

    emotion: Emotion
    confidence: Annotated[float, BeforeValidator(_no_boolean), Field(ge=0, le=1)]

    @field_validator("emotion", mode="before")
    @classmethod
    def _by_name(cls, value: object) -> object:
        return Emotion.parse(value) if isinstance(value, str) else value


def _printable(text: str) -> str:
    if bad := next((c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\r\t"), None):
        msg = f"holds the control character {bad!a}"
        raise ValueError(msg)
    return text


_Text = Annotated[str, Field(min_length=1, max_length=4000), AfterValidator(_printable)]
_Words = Annotated[str, Field(min_length=1, max_length=300), AfterValidator(_printable)]
"""Much more than any honest reply: a model that repeats itself without end is asked again."""


class FullAnnotation(EmotionVote):
    """Everything a VLM says of an image (paper section 3.1.2)."""

    description: _Text
    background: _Words
    attribute: _Words
    subject: _Words
    intensity: Annotated[int, BeforeValidator(_no_boolean), Field(ge=1, le=10)]


class CriticReply(Reply):
    """Reasoning steps, a verdict for each field, and what to change (paper section 3.2)."""

    scene: str
    description_check: str
    triplet_check: str
    emotion_check: str
    emotion: Emotion
    intensity_level: IntensityLevel
    description_verdict: FieldVerdict
    triplet_verdict: FieldVerdict
    emotion_verdict: FieldVerdict
    intensity_verdict: FieldVerdict
    overall: Overall
    instructions: str

    def flagged(self) -> tuple[str, ...]:
        """Fields to revise."""
        return tuple(field for field in CRITIQUED_FIELDS if getattr(self, f"{field}_verdict") == "revisable")


class BoxReply(Reply):
    """The critic's verdict on the box of a subject (paper Table 3, last row)."""

    seen: str
    box_check: str
    box_verdict: FieldVerdict
