"""The record of one annotated image."""

from __future__ import annotations

import json
import re
from typing import Literal, Self, get_args

from pydantic import (
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from emo_lightning.core.emotions import EMOTIONS, Emotion, IntensityLevel, intensity_level
from emo_lightning.core.foreign import MAX_PIXELS
from emo_lightning.core.records.parsing import CheckedModel, parse
from emo_lightning.core.records.pixels import refuse_fractions
from emo_lightning.core.records.ratings import Rating, Votes, without_none
from emo_lightning.core.strict_numbers import StrictInteger, StrictNumber
from emo_lightning.core.text import name_fault

SCHEMA_VERSION = 1
"""Written into every manifest; a reader refuses a version it does not know."""

IMAGE_EXTENSIONS = ("jpg", "png", "webp")
"""Image members that a tar may hold, one per key."""

DES_EXTENSION = "des.npy"
"""Tar member with the emotion embedding: float32, shape (des_dim,)."""

SOURCE_SHA256 = "source_sha256"
"""Key of `provenance`: the sha256 of the file that a store has of the image, where an export holds other bytes of the same picture (of
another type, or without what the file said beside its pixels)."""

TripletPart = Literal["background", "attribute", "subject"]
TRIPLET_PARTS: tuple[TripletPart, ...] = get_args(TripletPart)
"""In the order of a triplet; keys of records, and of the rows of Table 5."""

BOX_TOLERANCE = 0.5
"""Pixels by which a box may leave its image before it is an error (rounding of other tools)."""


_SHA256 = r"^[0-9a-f]{64}$"


def _sides(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width), if a picture can have them: what is read later takes memory for each pixel."""
    height, width = size
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        msg = f"{width}x{height}: expected sides of at least 1 and at most {MAX_PIXELS:,} pixels"
        raise ValueError(msg)
    return size


class _Model(CheckedModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Triplet(_Model):
    """Background–Attribute–Subject: the minimal emotional knowledge unit (paper section 3.1.2)."""

    background: str
    """The scene behind the subject."""
    attribute: str
    """What the subject does or how it looks, as far as it bears on the emotion."""
    subject: str
    """Who or what the emotion depends on."""

    @classmethod
    def of(cls, background: str | None, attribute: str | None, subject: str | None) -> Triplet | None:
        """The three together; None where a part is missing."""
        if background is None or attribute is None or subject is None:
            return None
        return cls(background=background, attribute=attribute, subject=subject)

    def __str__(self) -> str:
        return f"{self.background} - {self.attribute} - {self.subject}"


Box = tuple[StrictNumber, StrictNumber, StrictNumber, StrictNumber]
"""`(x1, y1, x2, y2)` in pixels of the original image, x1 < x2, y1 < y2."""


class Mask(_Model):
    """COCO run-length encoding, as `pycocotools.mask.encode` writes it (column-major counts as text)."""

    size: tuple[StrictInteger, StrictInteger]
    """(height, width) of the image."""
    counts: str
    """Lengths of runs, as COCO writes them."""

    @field_validator("size")
    @classmethod
    def _can_be_drawn(cls, size: tuple[int, int]) -> tuple[int, int]:
        return _sides(size)


class GroundedObject(_Model):
    """One region that a phrase was grounded to (paper section 3.1.2, subject-level annotation)."""

    phrase: str
    """What was looked for."""
    bbox: Box
    """(x1, y1, x2, y2) in pixels of the original image, x1 < x2, y1 < y2."""
    score: StrictNumber = Field(ge=0, le=1)
    """Confidence of the detector; 1 for a box that a data set or a person gave."""
    mask: Mask | None = None
    """The region's pixels."""
    primary: bool = False
    """Whether it is the subject of the triplet."""

    @field_validator("bbox")
    @classmethod
    def _ordered(cls, box: Box) -> Box:
        x1, y1, x2, y2 = box
        if not (x1 < x2 and y1 < y2):
            msg = f"box {list(box)} is empty or turned; expected x1 < x2 and y1 < y2"
            raise ValueError(msg)
        return box


class Reference(_Model):
    """What is true of one image, as far as it is known: an id, and the labels that are to be scored. `None` means "not annotated".

    A `Record` is a whole one; these have the same keys.
    """

    id: str = Field(min_length=1)
    """Unique in a data set, and the name of the image and its record in a tar; no dot, no slash."""
    source: str | None = None
    """The data set or folder that the image comes from."""
    width: StrictInteger | None = Field(default=None, gt=0)
    """Of the original image, in pixels; boxes are scored by it."""
    height: StrictInteger | None = Field(default=None, gt=0)
    """Of the original image, in pixels; boxes are scored by it."""
    sha256: str | None = Field(default=None, pattern=_SHA256)
    """Of the image's bytes as stored in the tar."""
    split: str | None = None
    """train, val, test, or another name."""
    description: str | None = None
    """What the image shows, in sentences."""
    background: str | None = None
    """Of the triplet."""
    attribute: str | None = None
    """Of the triplet."""
    subject: str | None = None
    """Of the triplet."""
    emotion: Emotion | None = None
    """The category."""
    emotion_scores: dict[Emotion, StrictNumber] | None = None
    """Distribution over the eight; sums to 1, absent categories are 0."""
    confidence: StrictNumber | None = Field(default=None, ge=0, le=1)
    """How clear the category is."""
    intensity: StrictInteger | None = Field(default=None, ge=1, le=10)
    """How strong the emotion is."""
    intensity_level: IntensityLevel | None = None
    """low (1–3), medium (4–7) or high (8–10)."""
    valence: Rating | None = None
    """How pleasant people found it. This and the next three are written only where they are known."""
    arousal: Rating | None = None
    """How much it stirred them."""
    dominance: Rating | None = None
    """How much in control they felt."""
    votes: Votes | None = None
    """What people chose, in the words of the source."""
    objects: list[GroundedObject] = Field(default=[])
    """Grounded regions; those of the subject are `primary`."""
    des: list[StrictNumber] | None = None
    """The emotion embedding. In a tar it stands beside the record instead, as `.des.npy`."""
    provenance: dict[str, object] = Field(default={})
    """Where the annotation comes from: votes, models, revisions, licence. JSON of any shape."""

    @field_validator("id")
    @classmethod
    def _id_is_a_tar_key(cls, value: str) -> str:
        # WebDataset splits a member's name at the first dot; a slash would make a folder of it.
        if "." in value or "/" in value or value.strip() != value:
            msg = f"id {value!r} may hold neither '.' nor '/' nor outer blanks: it is the key in a tar"
            raise ValueError(msg)
        return value

    @field_validator("id", "source", "split")
    @classmethod
    def _names_no_place(cls, value: str | None, info: ValidationInfo) -> str | None:
        # They become names of files, keys in tars and words on pages. Before an export an image may be in no split.
        if value is None:
            return value
        if (value or info.field_name != "split") and (fault := name_fault(value)):
            msg = f"{value[:80]!r} {fault}"
            raise ValueError(msg)
        return value

    @field_validator("emotion", mode="before")
    @classmethod
    def _emotion_by_name(cls, value: object) -> object:
        return Emotion.parse(value) if isinstance(value, str) else value

    @field_validator("emotion_scores")
    @classmethod
    def _scores_are_a_distribution(cls, scores: dict[Emotion, float] | None) -> dict[Emotion, float] | None:
        if scores is not None and not (min(scores.values(), default=0) >= 0 and abs(sum(scores.values()) - 1) <= 1e-3):
            msg = f"emotion_scores sum to {sum(scores.values()):.4f}; expected non-negative values that sum to 1"
            raise ValueError(msg)
        return scores

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.height is not None and self.width is not None:
            _sides((self.height, self.width))
        if self.intensity is not None and self.intensity_level not in (None, intensity_level(self.intensity)):
            msg = f"intensity {self.intensity} is not level {self.intensity_level!r} (low 1–3, medium 4–7, high 8–10)"
            raise ValueError(msg)
        for i, obj in enumerate(self.objects):
            if self.height is None or self.width is None:
                continue
            x1, y1, x2, y2 = obj.bbox
            if min(x1, y1) < -BOX_TOLERANCE or x2 > self.width + BOX_TOLERANCE or y2 > self.height + BOX_TOLERANCE:
                msg = f"objects[{i}].bbox {list(obj.bbox)} leaves the image of {self.width}x{self.height}"
                raise ValueError(msg)
            if obj.mask is not None and obj.mask.size != (self.height, self.width):
                msg = f"objects[{i}].mask.size {list(obj.mask.size)} is not [{self.height}, {self.width}]"
                raise ValueError(msg)
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not_known(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        # Records without ratings keep the bytes that they had before there were any.
        return without_none(handler(self))

    @property
    def triplet(self) -> Triplet | None:
        """The B-A-S triplet, or None where a part is missing."""
        return Triplet.of(self.background, self.attribute, self.subject)

    @property
    def primary_objects(self) -> list[GroundedObject]:
        """The regions of the subject: those marked primary, else all."""
        return [o for o in self.objects if o.primary] or list(self.objects)

    @property
    def source_sha256(self) -> str | None:
        """Of the file that the stored bytes were made of; None where they are that file, or it is not known."""
        found = self.provenance.get(SOURCE_SHA256)
        return found if isinstance(found, str) and re.match(_SHA256, found) else None

    @property
    def image_hashes(self) -> set[str]:
        """By any of these, two records are of one picture: the sha256 of the stored bytes, and of what they were made of."""
        return {found for found in (self.sha256, self.source_sha256) if found is not None}

    def emotion_distribution(self) -> list[float] | None:
        """Shape (8,), order of `EMOTIONS`: the soft label, or one-hot from `emotion`, or None without a label."""
        if self.emotion_scores is not None:
            return [self.emotion_scores.get(e, 0.0) for e in EMOTIONS]
        if self.emotion is None:
            return None
        return [1.0 if e is self.emotion else 0.0 for e in EMOTIONS]

    def affect(self) -> list[float | None]:
        """Valence, arousal and dominance from -1 to 1; None where people were not asked."""
        return [None if rating is None else rating.centred for rating in (self.valence, self.arousal, self.dominance)]

    def to_json(self) -> bytes:
        """Canonical bytes: keys in schema order, no blanks, UTF-8; equal records give equal bytes."""
        return json.dumps(self.model_dump(mode="json"), ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes | str, where: str) -> Self:
        """Parse and validate one.

        Args:
            data: JSON text.
            where: file and member or line, for the message.

        Raises:
            SchemaError: not JSON, or not a record; names `where`, the key and what was found.
        """
        record = parse(cls, data, where)
        refuse_fractions([record], where, annotated=True)
        return record


class Record(Reference):
    """One annotated image: a `Reference` that says where the image comes from, its size, its bytes and its split."""

    source: str
    """The data set or folder that the image comes from."""
    width: StrictInteger = Field(gt=0)
    """Of the original image, in pixels."""
    height: StrictInteger = Field(gt=0)
    """Of the original image, in pixels."""
    sha256: str = Field(pattern=_SHA256)
    """Of the image's bytes as stored in the tar."""
    split: str
    """train, val, test, or another name."""
