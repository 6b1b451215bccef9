"""What is known to be right of an image: a known truth, or what human reviewers said. The yardstick of Table 3."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from data_prep.annotate.critic import Draft
from data_prep.review.decisions import Review, apply_reviews, decide
from data_prep.stats.graph import normalise
from emo_lightning.core.records import TRIPLET_PARTS, Box, Record, intensity_level

TABLE3_FIELDS = ("emotion", "description", "triplet", "intensity", "box")
"""Rows of Table 3, as they are judged: the intensity by its level, the box by its overlap."""

SAME_BOX_IOU = 0.5
"""Intersection over union from which two boxes are of the same thing."""


@dataclass(frozen=True)
class Values:
    """What somebody says of an image, by the rows of the table."""

    emotion: str | None = None
    description: str | None = None
    triplet: tuple[str, ...] | None = None
    intensity: str | None = None
    """Level."""
    box: Box | None = None

    @classmethod
    def of_record(cls, record: Record) -> Values:
        """The values of a record; the box is that of the first primary object."""
        words = record.triplet
        level = record.intensity_level or (intensity_level(record.intensity) if record.intensity is not None else None)
        return cls(
            None if record.emotion is None else str(record.emotion),
            record.description,
            None if words is None else (words.background, words.attribute, words.subject),
            level,
            record.primary_objects[0].bbox if record.objects else None,
        )

    @classmethod
    def of_draft(cls, draft: Draft, box: Box | None) -> Values:
        """The values of a draft, with a box that was grounded for its subject."""
        triplet = (draft.background, draft.attribute, draft.subject)
        return cls(str(draft.pool.emotion), draft.description, triplet, intensity_level(draft.intensity), box)


@dataclass(frozen=True)
class CriticReference:
    """Accepted and rejected values by row."""

    accepted: Mapping[str, tuple[object, ...]]
    rejected: Mapping[str, tuple[object, ...]]
    complete: bool
    """Every right value is accepted: another one is wrong. Else another wording may be right as well, and is not judged."""

    @classmethod
    def of_truth(cls, truth: Record) -> CriticReference:
        """From a record in which everything is right (a second right description may stand in its provenance)."""
        values = Values.of_record(truth)
        accepted: dict[str, tuple[object, ...]] = {
            f: (getattr(values, f),) for f in TABLE3_FIELDS if getattr(values, f) is not None
        }
        neutral = truth.provenance.get("neutral_description")
        if neutral and "description" in accepted:
            accepted["description"] += (neutral,)
        return cls(_comparable_all(accepted), {}, complete=True)

    @classmethod
    def of_reviews(cls, record: Record, reviews: Iterable[Review]) -> CriticReference:
        """From what reviewers decided about the fields of a record; what they did not look at is not known."""
        rows = list(reviews)
        decisions = decide(record, rows)
        after, before = Values.of_record(apply_reviews(record, rows)), Values.of_record(record)
        accepted: dict[str, tuple[object, ...]] = {}
        rejected: dict[str, tuple[object, ...]] = {}
        parts = {
            "emotion": ("emotion",),
            "description": ("description",),
            "triplet": TRIPLET_PARTS,
            "intensity": ("intensity",),
        }
        for field, needed in {**parts, "box": ("objects",)}.items():
            verdicts = {decisions[part].verdict for part in needed if part in decisions}
            if "wrong" in verdicts:
                rejected[field] = (getattr(before, field),)
            elif all(part in decisions for part in needed):
                accepted[field] = (getattr(after, field),)
                if "mended" in verdicts and getattr(before, field) != getattr(after, field):
                    rejected[field] = (getattr(before, field),)
        return cls(_comparable_all(accepted), _comparable_all(rejected), complete=False)

    def right(self, field: str, value: object) -> bool | None:
        """Whether a value is right; None where that is not known.

        A missing value is wrong where a right one is known. Texts are compared without case, blanks and leading articles.
        """
        accepted = self.accepted.get(field, ())
        if field == "box":
            # The row decides the type, see `Values`.
            box = cast("Box | None", value)
            boxes = cast("tuple[Box | None, ...]", accepted)
            if box is not None and any(other is not None and iou(box, other) >= SAME_BOX_IOU for other in boxes):
                return True
            return False if accepted or value in self.rejected.get(field, ()) else None
        value = _comparable(value)
        if value in accepted:
            return True
        if value in self.rejected.get(field, ()):
            return False
        decided = bool(accepted) and (self.complete or field in ("emotion", "intensity") or value is None)
        return False if decided else None


def _comparable_all(values: Mapping[str, tuple[object, ...]]) -> dict[str, tuple[object, ...]]:
    return {field: options if field == "box" else tuple(map(_comparable, options)) for field, options in values.items()}


def _comparable(value: object) -> object:
    if isinstance(value, tuple):
        return tuple(_comparable(part) for part in value)
    return normalise(value) if isinstance(value, str) else value


def iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    both = max(width, 0.0) * max(height, 0.0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return both / (areas - both)
