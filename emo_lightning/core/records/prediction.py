"""What a model says of one image, with the keys of a record."""

from __future__ import annotations

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from emo_lightning.core.records.parsing import CheckedModel, parse
from emo_lightning.core.records.ratings import without_none
from emo_lightning.core.strict_numbers import AnyNumber, StrictInteger


class PredictedObject(CheckedModel):
    """A region as a model gave it, in original-image pixels; nothing is checked but the shape."""

    # A number that a model said and that is none stays what it is, and is no null.
    model_config = ConfigDict(extra="ignore", ser_json_inf_nan="constants")
    phrase: str | None = None
    """What the model calls it."""
    bbox: tuple[AnyNumber, AnyNumber, AnyNumber, AnyNumber]
    """(x1, y1, x2, y2)."""
    score: AnyNumber | None = None
    """Its confidence, where it gives one."""
    primary: bool = True
    """Whether it is the subject."""


class Prediction(CheckedModel):
    """What a model said of one image: strings as given, None where missing or unparsable, raw answer in `provenance`."""

    # A number that a model said and that is none stays what it is, and is no null.
    model_config = ConfigDict(extra="ignore", ser_json_inf_nan="constants")
    id: str
    """Of the image; the other fields are those of `Record`, as the model gives them."""
    source: str | None = None
    width: StrictInteger | None = None
    height: StrictInteger | None = None
    sha256: str | None = None
    split: str | None = None
    description: str | None = None
    background: str | None = None
    attribute: str | None = None
    subject: str | None = None
    emotion: str | None = None
    emotion_scores: dict[str, AnyNumber] | None = None
    confidence: AnyNumber | None = None
    intensity: AnyNumber | None = None
    intensity_level: str | None = None
    valence: AnyNumber | None = None
    """From -1 to 1, whatever the scale of the references; so are the next two. Written only where there is one."""
    arousal: AnyNumber | None = None
    dominance: AnyNumber | None = None
    objects: list[PredictedObject] = Field(default=[])
    des: list[AnyNumber] | None = None
    provenance: dict[str, object] = Field(default={})

    @model_serializer(mode="wrap")
    def _without_what_is_not_said(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        return without_none(handler(self))

    @classmethod
    def from_json(cls, data: bytes | str, where: str) -> Prediction:
        """As `Record.from_json`."""
        return parse(cls, data, where, said=True)
