"""What a search finds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from emo_lightning.core.records import Triplet
from emo_lightning.search.schema import FILTER_FIELDS, HIT_FIELDS


@dataclass(frozen=True)
class Hit:
    """An image of the index."""

    id: str
    distance: float
    """1 − cosine, 0 to 2: how far its embedding is from what was asked for."""
    cosine: float
    emotion: str | None
    """As its record says; else as the model's words or its probe say (`record["emotion_by"]`)."""
    intensity: float | None
    """1–10."""
    record: dict[str, object]
    """Everything that the index knows of it but embedding and thumbnail; the keys are those of `schema.FILTER_FIELDS` and `schema.HIT_FIELDS`."""
    has_thumbnail: bool
    """Whether `SearchIndex.thumbnail` has a picture of it."""

    @property
    def triplet(self) -> Triplet | None:
        """Background, attribute and subject, where all three are known."""
        background, attribute, subject = (self.text(name) for name in ("background", "attribute", "subject"))
        return Triplet.of(background, attribute, subject)

    def text(self, field: str) -> str | None:
        """A field of its record that is a text."""
        found = self.record.get(field)
        return found if isinstance(found, str) else None

    def as_json(self) -> dict[str, object]:
        """One object: id, distance, cosine, and the fields that are known."""
        known = {key: value for key, value in self.record.items() if value is not None and key not in ("id", "has_thumbnail")}
        return {
            "id": self.id,
            "distance": round(self.distance, 6),
            "cosine": round(self.cosine, 6),
            **known,
            "has_thumbnail": self.has_thumbnail,
        }


def as_hit(row: Mapping[str, object], distance: float | None = None) -> Hit:
    """A row of `IMAGES_TABLE` as a hit.

    Args:
        row: with the columns `schema.HIT_COLUMNS`, and perhaps `_distance`.
        distance: where the row does not say it.
    """
    known = row.get("_distance") if distance is None else distance
    # Rounding may leave an image a hair nearer than itself.
    far = max(0.0, float(known)) if isinstance(known, int | float) else 0.0
    known = json.loads(str(row["record"]))
    intensity, emotion = known.get("intensity"), known.get("emotion")
    return Hit(
        id=str(row["id"]),
        distance=far,
        cosine=1 - far,
        emotion=emotion if isinstance(emotion, str) else None,
        intensity=float(intensity) if isinstance(intensity, int | float) else None,
        record={name: known.get(name) for name in (*FILTER_FIELDS, *HIT_FIELDS)},
        has_thumbnail=bool(known.get("has_thumbnail")),
    )
