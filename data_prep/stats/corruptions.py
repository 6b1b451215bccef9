"""Annotations that are wrong on purpose, one field each, with a severity: what the critic should notice (Table 3, right half)."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from data_prep.annotate.critic import Draft
from data_prep.stats.graph import normalise
from data_prep.stats.references import iou
from emo_lightning.core.records import EMOTIONS, INTENSITY_LEVELS, TRIPLET_PARTS, Box, Emotion, Record, intensity_level

_PLEASANT = frozenset(EMOTIONS[:4])
_OF_LEVEL = {"low": range(1, 4), "medium": range(4, 8), "high": range(8, 11)}
_TRIES = 300
MAX_MOVED_IOU = 0.3
"""A moved box overlaps the right one by less (intersection over union)."""


@dataclass(frozen=True)
class Corruption:
    """A wrong value for one field."""

    field: str
    severity: int
    """1 or 2. emotion: of the same pleasantness, of the other; description: of an image that shares a part of the triplet, that
    shares none; triplet: parts replaced; intensity: levels moved; box: overlap from 0.1 to 0.3, below 0.1."""
    draft: Draft
    box: Box | None = None


def generator(seed: int, *parts: str) -> random.Random:
    """Randomness of one corruption: it depends on the seed and the parts alone, not on what else is corrupted."""
    digest = hashlib.sha256("\0".join([str(seed), *parts]).encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))


def corrupt(
    field: str, draft: Draft, box: Box | None, size: tuple[int, int], donors: Sequence[Record], rng: random.Random
) -> Corruption | None:
    """One wrong field; None where none can be made (no donor with other words, a box that fills the image).

    The severity is drawn; where it cannot be had (two levels from medium) the other one is taken.

    Args:
        field: a row of Table 3.
        draft: as it should be.
        box: as it should be; needed for `box`.
        size: (width, height) of the image, pixels.
        donors: records whose words and descriptions are taken.
        rng: see `generator`.
    """
    wanted = rng.choice((1, 2))
    for severity in (wanted, 3 - wanted):
        if field == "box":
            moved = _moved(box, size, severity, rng) if box is not None else None
            found = None if moved is None else Corruption(field, severity, draft, moved)
        else:
            changed = _CHANGES[field](draft, donors, severity, rng)
            found = None if changed is None else Corruption(field, severity, changed, box)
        if found is not None:
            return found
    return None


def _emotion(draft: Draft, _: Sequence[Record], severity: int, rng: random.Random) -> Draft:
    right = draft.pool.emotion
    alike = severity == 1
    other = rng.choice([e for e in EMOTIONS if e is not right and ((e in _PLEASANT) == (right in _PLEASANT)) == alike])
    # The votes that the critic is shown must speak for the wrong emotion too, or they would give it away.
    scores: dict[Emotion, float] = {**draft.pool.scores, other: draft.pool.scores[right], right: draft.pool.scores[other]}
    return replace(draft, pool=replace(draft.pool, emotion=other, scores=scores))


def _description(draft: Draft, donors: Sequence[Record], severity: int, rng: random.Random) -> Draft | None:
    mine = [normalise(getattr(draft, key)) for key in TRIPLET_PARTS]
    for _ in range(_TRIES):
        donor = rng.choice(donors)
        shares = any(normalise(getattr(donor, key) or "") == word for key, word in zip(TRIPLET_PARTS, mine, strict=True))
        if donor.description and normalise(donor.description) != normalise(draft.description) and shares == (severity == 1):
            return replace(draft, description=donor.description)
    return None


def _triplet(draft: Draft, donors: Sequence[Record], severity: int, rng: random.Random) -> Draft | None:
    changes: dict[str, str] = {}
    for key in rng.sample(TRIPLET_PARTS, severity):
        for _ in range(_TRIES):
            word = getattr(rng.choice(donors), key)
            if word and normalise(word) != normalise(getattr(draft, key)):
                changes[key] = word
                break
    if len(changes) != severity:
        return None
    return replace(
        draft,
        background=changes.get("background", draft.background),
        attribute=changes.get("attribute", draft.attribute),
        subject=changes.get("subject", draft.subject),
    )


def _intensity(draft: Draft, _: Sequence[Record], severity: int, rng: random.Random) -> Draft | None:
    level = INTENSITY_LEVELS.index(intensity_level(draft.intensity))
    away = [name for i, name in enumerate(INTENSITY_LEVELS) if abs(i - level) == severity]
    return replace(draft, intensity=rng.choice(_OF_LEVEL[rng.choice(away)])) if away else None


_CHANGES: dict[str, Callable[[Draft, Sequence[Record], int, random.Random], Draft | None]] = {
    "emotion": _emotion,
    "description": _description,
    "triplet": _triplet,
    "intensity": _intensity,
}
"""How each field is made wrong: (draft, donors, severity, randomness) to the changed draft; None where it cannot be."""


def _moved(box: Box, size: tuple[int, int], severity: int, rng: random.Random) -> Box | None:
    """The box elsewhere in the image, of the same size where that is possible, else smaller."""
    low, high = (0.1, MAX_MOVED_IOU) if severity == 1 else (0.0, 0.1)
    for attempt in range(2 * _TRIES):
        scale = 1.0 if attempt < _TRIES else rng.uniform(0.3, 1.0)
        width, height = scale * (box[2] - box[0]), scale * (box[3] - box[1])
        left, top = rng.uniform(0, max(0.0, size[0] - width)), rng.uniform(0, max(0.0, size[1] - height))
        moved = (round(left, 1), round(top, 1), round(left + width, 1), round(top + height, 1))
        inside = moved[2] <= size[0] and moved[3] <= size[1] and moved[0] < moved[2] and moved[1] < moved[3]
        if inside and low <= iou(box, moved) < high:
            return moved
    return None
