"""From a phrase to regions of an image (paper section 3.1.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from emo_lightning.schema import GroundedObject

if TYPE_CHECKING:
    from PIL import Image

STORED_FROM = 0.25
"""Candidates from this score on are kept; the cut for use is made later."""


class Grounder(Protocol):
    """Finds what a phrase names."""

    def ground(self, image: Image.Image | None, phrase: str) -> list[GroundedObject]:
        """All candidates with score ≥ the threshold, best first, boxes in pixels of `image`; the best one is primary.

        A backend that knows the regions already is given None for the image.
        """
        ...


def rank(candidates: list[GroundedObject]) -> list[GroundedObject]:
    """Best first (ties: the larger one) with the first marked primary."""

    def order(candidate: GroundedObject) -> tuple[float, float, tuple[float, ...]]:
        x1, y1, x2, y2 = candidate.bbox
        return -candidate.score, -(x2 - x1) * (y2 - y1), candidate.bbox

    ordered = sorted(candidates, key=order)
    return [candidate.model_copy(update={"primary": i == 0}) for i, candidate in enumerate(ordered)]
