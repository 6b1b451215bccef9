"""From a phrase to regions of an image (paper section 3.1.2)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from emo_lightning.core.errors import UserError
from emo_lightning.core.records import GroundedObject

if TYPE_CHECKING:
    from PIL import Image

MIN_STORED_SCORE = 0.25
"""Candidates from this score on are kept; the cut for use is made later."""

DEFAULT_THRESHOLD = 0.35
"""Candidates from this score on come into a record (the detector authors' own box threshold)."""


class GroundingError(UserError, RuntimeError):
    """Grounding cannot be done as configured."""


@dataclass(frozen=True)
class PhraseQuery:
    """One phrase to find in one image."""

    image: Image.Image | None
    """Backends that know the regions already do without it."""
    phrase: str
    regions: Sequence[GroundedObject] = ()
    """What the source says of the image."""


class Grounder(Protocol):
    """Finds what phrases name."""

    def ground(self, queries: Sequence[PhraseQuery]) -> list[list[GroundedObject]]:
        """For each query all candidates with score ≥ the threshold, best first, boxes in pixels of its image; the best is primary.

        The answer to a query does not depend on the others.
        """
        ...


def query_text(phrase: str) -> str:
    """The text for a Grounding DINO: lower case and one full stop, as it was trained; empty if the phrase has no words.

    Inner full stops and question marks would make several phrases of one, whose labels are merged.
    """
    words = re.sub(r"[.?]", " ", phrase.lower()).split()
    return f"{' '.join(words)}." if words else ""


def rank(candidates: Sequence[GroundedObject]) -> list[GroundedObject]:
    """Best first (ties: the larger one) with the first marked primary."""

    def order(candidate: GroundedObject) -> tuple[float, float, tuple[float, ...]]:
        x1, y1, x2, y2 = candidate.bbox
        return -candidate.score, -(x2 - x1) * (y2 - y1), candidate.bbox

    ordered = sorted(candidates, key=order)
    return [candidate.model_copy(update={"primary": i == 0}) for i, candidate in enumerate(ordered)]


def cut(candidates: Sequence[GroundedObject], threshold: float) -> list[GroundedObject]:
    """Candidates with score ≥ `threshold`, in their order; the primary one is the best, so it stays if anything does."""
    return [candidate for candidate in candidates if candidate.score >= threshold]
